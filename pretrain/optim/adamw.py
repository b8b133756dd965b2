"""AdamW (Loshchilov and Hutter 2019, Decoupled weight decay regularization, arXiv 1711.05101), torch's fused kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pretrain.optim.options import MakeOptimizer, OptimizerOptions

if TYPE_CHECKING:
    from torch.optim import Optimizer as TorchOptimizer


class AdamWOptions(OptimizerOptions):
    name: ClassVar[str] = "adamw"
    steps_elementwise: ClassVar[bool] = True

    def make(self, groups: list[dict[str, Any]]) -> TorchOptimizer:
        return adamw(self.betas, self.eps)(groups)


def adamw(betas: tuple[float, float], eps: float) -> MakeOptimizer:
    from pretrain.optim.adamw_step import AdamW

    return lambda groups: AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
