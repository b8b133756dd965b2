"""The two moments that Adam, LAMB and LANS keep, one step further."""

from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.optim.layerwise import Part


class Coefficients(NamedTuple):
    """Numbers of one part in one step."""

    beta1: float
    beta2: float
    scale: float
    """The gradient is taken times this."""
    first: float
    """Undoes exp_avg's start from zero."""
    second: float
    eps: float
    decay: float


def coefficients(part: Part, scale: float = 1.0) -> Coefficients:
    group = part.group
    beta1, beta2 = group["betas"]
    first, second = 1.0, 1.0
    if group["bias_correction"]:
        first, second = 1 / (1 - beta1**part.step), 1 / (1 - beta2**part.step)
    return Coefficients(beta1, beta2, scale, first, second, group["eps"], group["weight_decay"])


def advance(gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Coefficients) -> Tensor:
    """m = beta1 m + (1 - beta1) g and v = beta2 v + (1 - beta2) g^2, in place. Returns sqrt(v^) + eps."""
    exp_avg.mul_(c.beta1).add_(gradient, alpha=(1 - c.beta1) * c.scale)
    exp_avg_sq.mul_(c.beta2).addcmul_(gradient, gradient, value=(1 - c.beta2) * c.scale**2)
    return root(exp_avg_sq, c)


def root(exp_avg_sq: Tensor, c: Coefficients) -> Tensor:
    return exp_avg_sq.mul(c.second).sqrt_().add_(c.eps)


def advance_many(
    gradient: list[Tensor], exp_avg: list[Tensor], exp_avg_sq: list[Tensor], cs: list[Coefficients]
) -> list[Tensor]:
    """`advance` in multi-tensor operations."""
    torch._foreach_mul_(exp_avg, [c.beta1 for c in cs])
    torch._foreach_add_(exp_avg, torch._foreach_mul(gradient, [(1 - c.beta1) * c.scale for c in cs]))
    torch._foreach_mul_(exp_avg_sq, [c.beta2 for c in cs])
    torch._foreach_addcmul_(exp_avg_sq, gradient, gradient, [(1 - c.beta2) * c.scale**2 for c in cs])
    return root_many(exp_avg_sq, cs)


def root_many(exp_avg_sq: list[Tensor], cs: list[Coefficients]) -> list[Tensor]:
    roots = list(torch._foreach_mul(exp_avg_sq, [c.second for c in cs]))
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, [c.eps for c in cs])
    return roots
