"""Optimizers: what the engine is given to step with."""

import math
from collections.abc import Callable
from typing import Any

import torch

from growth.moments import MomentRule, of_gradients, of_unit_gradients, of_unit_model_gradients
from pretrain.optim.groups import GroupRules, matrices_decay, parameter_groups, set_learning_rate
from pretrain.optim.lamb import Lamb
from pretrain.optim.lans import Lans
from pretrain.optim.layerwise import LayerwiseOptimizer, Partition, Segment
from pretrain.optim.passes import can_compile
from pretrain.recipe.schema import Optimizer

__all__ = [
    "GroupRules",
    "Lamb",
    "Lans",
    "LayerwiseOptimizer",
    "MakeOptimizer",
    "Partition",
    "Segment",
    "adamw",
    "group_rules",
    "make_optimizer",
    "matrices_decay",
    "moment_rule",
    "notes",
    "parameter_groups",
    "set_learning_rate",
]

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Parameter groups (each with `params`, `weight_decay`) -> an optimizer over them. The lr is set before every step."""


def make_optimizer(settings: Optimizer) -> MakeOptimizer:
    if settings.name == "adamw":
        return adamw(settings.betas, settings.eps)
    shared = dict(
        betas=settings.betas,
        eps=settings.eps,
        bias_correction=settings.bias_correction,
        compiled=settings.compile,
    )
    if settings.name == "lans":
        return lambda groups: Lans(groups, **shared)
    bounds = settings.trust_bounds or (0.0, math.inf)
    return lambda groups: Lamb(groups, trust_bounds=bounds, prenormalize=settings.prenormalize, **shared)


def adamw(betas: tuple[float, float], eps: float) -> MakeOptimizer:
    """Decoupled weight decay (Loshchilov and Hutter 2019) in torch's fused kernel."""
    return lambda groups: torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


def group_rules(settings: Optimizer) -> GroupRules:
    return GroupRules(
        weight_decay=settings.weight_decay,
        decay_all=settings.decayed == "all",
        adapt_all=settings.adapted == "all",
        layer_decay=settings.layer_decay,
    )


def moment_rule(settings: Optimizer) -> MomentRule:
    """How this optimizer's moments follow a change of shape. Dividing by a norm above one is taken for clipping."""
    if settings.name == "lans":
        return of_unit_gradients
    return of_unit_model_gradients if settings.prenormalize == "always" else of_gradients


def notes(settings: Optimizer) -> list[str]:
    """What a user should know about this optimizer on this machine."""
    if settings.name == "adamw" or torch.cuda.is_available() or not settings.compile or can_compile():
        return []
    return [f"no C++ compiler was found: on a CPU the step of {settings.name} takes about twice as long without one"]
