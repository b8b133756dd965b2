"""StableAdamW (Wortsman et al. 2023, Stable and low-precision training for large-scale vision-language models, arXiv
2304.13013, algorithm 2): AdamW whose update is clipped tensor by tensor, as Adafactor's is. ModernBERT trained with it.

For every parameter w of n elements with gradient g:

    m = beta1 m + (1 - beta1) g                      v = beta2 v + (1 - beta2) g^2
    rms = sqrt(sum(g^2 / max(v^, eps^2)) / n)        m^ and v^: divided by 1 - beta^step
    rate = lr / max(1, rms)
    w = w - rate (m^ / (sqrt(v^) + eps) + decay w)

The algorithm corrects the decay rates beta instead of the moments, which is the same. rms is near 1 while v keeps up
with the gradients, and larger where these suddenly grow, which is when AdamW takes too large a step. ModernBERT's
weight decay is not multiplied by the rate: divided by its peak, it means the same here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pretrain.optim.options import OptimizerOptions, compiler_notes

if TYPE_CHECKING:
    from pretrain.optim.stableadamw.step import StableAdamW


class StableAdamWOptions(OptimizerOptions):
    name: ClassVar[str] = "stableadamw"

    def make(self, groups: list[dict[str, Any]]) -> StableAdamW:
        from pretrain.optim.stableadamw.step import StableAdamW

        return StableAdamW(groups, betas=self.betas, eps=self.eps, compiled=self.compile)

    def notes(self) -> list[str]:
        return compiler_notes(self)
