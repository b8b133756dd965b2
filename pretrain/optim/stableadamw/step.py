"""The step of StableAdamW, in the passes of `pretrain/optim/passes.py`; the formulas are in `__init__.py`."""

import torch
from torch import Tensor

from pretrain.optim.layerwise import LayerwiseOptimizer, Part, Partition, whole_norms
from pretrain.optim.moments import Coefficients, add_scaled, advance, advance_many, coefficients
from pretrain.optim.passes import WRITE, Pass, Tensors, run, squared_norm, squared_norms


class StableAdamW(LayerwiseOptimizer):
    """One collective per step."""

    def update(self, parts: list[Part], partition: Partition) -> None:
        squares = run(UPDATE, parts, [coefficients(part) for part in parts], compiled=self.compiled)
        norms = whole_norms(partition, parts, squares)
        rates = []
        for part in parts:
            (norm,) = norms[part.segment.parameter]
            rms = norm / partition.numels[part.segment.parameter] ** 0.5
            rates.append(part.group["lr"] / max(1.0, rms))
        run(WRITE, parts, rates)


# ---- the arithmetic: moments, the update in place of the gradient, the norm of g / max(sqrt(v^), eps) ----


def _update(
    gradient: Tensor, weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Coefficients
) -> tuple[Tensor, ...]:
    denominator = advance(gradient, exp_avg, exp_avg_sq, c)
    square = squared_norm(gradient / (denominator - c.eps).clamp_min_(c.eps))
    add_scaled(gradient.copy_(exp_avg).mul_(c.first).div_(denominator), weight, c.decay)
    return (square,)


def _update_many(
    gradient: list[Tensor],
    weight: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    cs: list[Coefficients],
) -> tuple[Tensors, ...]:
    denominators = advance_many(gradient, exp_avg, exp_avg_sq, cs)
    eps = [c.eps for c in cs]
    roots = list(torch._foreach_sub(denominators, eps))
    torch._foreach_clamp_min_(roots, eps)
    torch._foreach_reciprocal_(roots)
    torch._foreach_mul_(roots, gradient)
    squares = squared_norms(roots)
    del roots  # of all parts: as much memory as a moment
    torch._foreach_copy_(gradient, exp_avg)
    torch._foreach_mul_(gradient, [c.first for c in cs])
    torch._foreach_div_(gradient, denominators)
    torch._foreach_add_(gradient, torch._foreach_mul(weight, [c.decay for c in cs]))
    return (squares,)


UPDATE = Pass(_update, _update_many, num_norms=1)
