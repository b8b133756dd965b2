"""The step of LAMB, in the passes of `pretrain/optim/passes.py`; the formulas are in `__init__.py`."""

import math
from typing import Any

import torch
from torch import Tensor

from pretrain.optim.layerwise import LayerwiseOptimizer, Part, Partition, whole_norms
from pretrain.optim.moments import Coefficients, add_scaled, advance, advance_many, coefficients
from pretrain.optim.passes import GRADIENT_NORM, WRITE, Pass, Tensors, run, squared_norm, squared_norms


class Lamb(LayerwiseOptimizer):
    """One collective per step, two with `prenormalize`."""

    def __init__(
        self,
        params: Any,
        *,
        trust_bounds: tuple[float, float] = (0.0, math.inf),
        prenormalize: str = "never",
        **shared: Any,
    ):
        """prenormalize: `never`, `above_one` as in NVIDIA's kernels, or `always` as in its article.

        shared: arguments of LayerwiseOptimizer.
        """
        super().__init__(params, **shared)
        self.trust_bounds = trust_bounds
        self.prenormalize = prenormalize

    def update(self, parts: list[Part], partition: Partition) -> None:
        scale = self._gradient_scale(parts, partition)
        squares = run(UPDATE, parts, [coefficients(part, scale) for part in parts], compiled=self.compiled)
        norms = whole_norms(partition, parts, squares)
        rates = [part.group["lr"] * self._trust_ratio(part, *norms[part.segment.parameter]) for part in parts]
        run(WRITE, parts, rates)

    def _gradient_scale(self, parts: list[Part], partition: Partition) -> float:
        if self.prenormalize == "never":
            return 1.0
        norms = whole_norms(partition, parts, run(GRADIENT_NORM, parts, compiled=self.compiled))
        norm = math.sqrt(sum(norm**2 for (norm,) in norms))
        return 1 / norm if norm > (1 if self.prenormalize == "above_one" else 0) else 1.0

    def _trust_ratio(self, part: Part, weight_norm: float, update_norm: float) -> float:
        if not part.group["adapt"] or not weight_norm or not update_norm:
            return 1.0
        lowest, highest = self.trust_bounds
        return min(max(weight_norm / update_norm, lowest), highest)


# ---- the arithmetic: moments and the update r, which takes the gradient's place; then w = w - rate r ----


def _update(
    gradient: Tensor, weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Coefficients
) -> tuple[Tensor, ...]:
    denominator = advance(gradient, exp_avg, exp_avg_sq, c)
    add_scaled(gradient.copy_(exp_avg).mul_(c.first).div_(denominator), weight, c.decay)
    return squared_norm(weight), squared_norm(gradient)


def _update_many(
    gradient: list[Tensor],
    weight: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    cs: list[Coefficients],
) -> tuple[Tensors, ...]:
    denominators = advance_many(gradient, exp_avg, exp_avg_sq, cs)
    torch._foreach_copy_(gradient, exp_avg)
    torch._foreach_mul_(gradient, [c.first for c in cs])
    torch._foreach_div_(gradient, denominators)
    torch._foreach_add_(gradient, torch._foreach_mul(weight, [c.decay for c in cs]))
    return squared_norms(weight), squared_norms(gradient)


UPDATE = Pass(_update, _update_many, num_norms=2)
