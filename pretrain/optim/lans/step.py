"""The step of LANS, in the passes of `pretrain/optim/passes.py`; the formulas are in `__init__.py`."""

from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.optim.layerwise import LayerwiseOptimizer, Part, Partition, whole_norms
from pretrain.optim.moments import Coefficients, add_scaled, advance, advance_many, coefficients, root, root_many
from pretrain.optim.passes import GRADIENT_NORM, Pass, Tensors, run, squared_norm, squared_norms


class Lans(LayerwiseOptimizer):
    """Two collectives per step: the moments need |g| before the updates have norms."""

    def update(self, parts: list[Part], partition: Partition) -> None:
        norms = whole_norms(partition, parts, run(GRADIENT_NORM, parts, compiled=self.compiled))
        cs = []
        for part in parts:
            (gradient_norm,) = norms[part.segment.parameter]
            cs.append(coefficients(part, 1 / gradient_norm if gradient_norm else 1.0))
        squares = run(MOMENTS, parts, cs, compiled=self.compiled)
        norms = whole_norms(partition, parts, squares)
        rates = [_rates(part, c, *norms[part.segment.parameter]) for part, c in zip(parts, cs, strict=True)]
        run(WRITE, parts, cs, rates, compiled=self.compiled)


class Rates(NamedTuple):
    """w becomes w - (momentum m + gradient g) / (sqrt(v^) + eps) - weight w."""

    momentum: float
    gradient: float
    weight: float


def _rates(part: Part, c: Coefficients, weight_norm: float, momentum_norm: float, gradient_norm: float) -> Rates:
    lr, beta1 = part.group["lr"], part.group["betas"][0]
    adapts = part.group["adapt"] and weight_norm
    momentum = lr * beta1 * (weight_norm / momentum_norm if adapts and momentum_norm else 1.0)
    gradient = lr * (1 - beta1) * (weight_norm / gradient_norm if adapts and gradient_norm else 1.0)
    return Rates(momentum * c.first, gradient * c.scale, (momentum + gradient) * c.decay)


# ---- the arithmetic: moments and the norms of w, r and c; then w = w - rates of r and c, computed again ----


def _moments(
    gradient: Tensor, weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Coefficients
) -> tuple[Tensor, ...]:
    denominator = advance(gradient, exp_avg, exp_avg_sq, c)
    momentum = add_scaled(exp_avg.mul(c.first).div_(denominator), weight, c.decay)
    latest = add_scaled(gradient.mul(c.scale).div_(denominator), weight, c.decay)
    return squared_norm(weight), squared_norm(momentum), squared_norm(latest)


def _moments_many(
    gradient: list[Tensor],
    weight: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    cs: list[Coefficients],
) -> tuple[Tensors, ...]:
    denominators = advance_many(gradient, exp_avg, exp_avg_sq, cs)
    decay = torch._foreach_mul(weight, [c.decay for c in cs])
    norms = [squared_norms(weight)]
    for source, factors in ((exp_avg, [c.first for c in cs]), (gradient, [c.scale for c in cs])):
        update = list(torch._foreach_mul(source, factors))
        torch._foreach_div_(update, denominators)
        torch._foreach_add_(update, decay)
        norms.append(squared_norms(update))
    return tuple(norms)


def _write(
    gradient: Tensor, weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Coefficients, rates: Rates
) -> tuple[Tensor, ...]:
    step = add_scaled(exp_avg.mul(rates.momentum), gradient, rates.gradient).div_(root(exp_avg_sq, c))
    weight.sub_(add_scaled(step, weight, rates.weight))
    return ()


def _write_many(
    gradient: list[Tensor],
    weight: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    cs: list[Coefficients],
    rates: list[Rates],
) -> tuple[Tensors, ...]:
    step = list(torch._foreach_mul(exp_avg, [rate.momentum for rate in rates]))
    torch._foreach_mul_(gradient, [rate.gradient for rate in rates])
    torch._foreach_add_(step, gradient)
    torch._foreach_div_(step, root_many(exp_avg_sq, cs))
    torch._foreach_add_(step, torch._foreach_mul(weight, [rate.weight for rate in rates]))
    torch._foreach_sub_(weight, step)
    return ()


MOMENTS = Pass(_moments, _moments_many, num_norms=3)
WRITE = Pass(_write, _write_many)
