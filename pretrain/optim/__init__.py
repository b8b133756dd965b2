"""Optimizers: what the engine is given to step with."""

from collections.abc import Callable
from typing import Any

import torch

from pretrain.recipe.schema import Optimizer

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Parameter groups (each with `params`, `weight_decay`) -> an optimizer over them. The lr is set before every step."""


def make_optimizer(settings: Optimizer) -> MakeOptimizer:
    return {"adamw": adamw}[settings.name](settings.betas, settings.eps)


def adamw(betas: tuple[float, float], eps: float) -> MakeOptimizer:
    """Decoupled weight decay (Loshchilov and Hutter 2019) in torch's fused kernel."""
    return lambda groups: torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
