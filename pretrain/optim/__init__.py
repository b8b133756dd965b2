"""Optimizers: what the engine is given to step with."""

from collections.abc import Callable
from typing import Any

import torch


def adamw(betas: tuple[float, float], eps: float) -> Callable[[list[dict[str, Any]]], torch.optim.Optimizer]:
    """Decoupled weight decay (Loshchilov and Hutter 2019) in torch's fused kernel. The lr is set before every step."""
    return lambda groups: torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
