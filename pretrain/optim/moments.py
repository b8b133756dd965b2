"""The two moments that Adam, LAMB, LANS and StableAdamW keep, one step further."""

from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.optim.layerwise import Part


class Coefficients(NamedTuple):
    """Numbers of one part in one step; computed here, once, so that the compiled arithmetic gets plain arguments."""

    beta1: float
    gain1: float
    """What the gradient g adds to exp_avg."""
    beta2: float
    gain2: float
    """What g^2 adds to exp_avg_sq."""
    scale: float
    """What g is to be multiplied by."""
    first: float
    """Undoes exp_avg's start from zero."""
    second: float
    eps: float
    decay: float


def coefficients(part: Part, scale: float = 1.0) -> Coefficients:
    """For gradients that are to be multiplied by `scale`."""
    group = part.group
    beta1, beta2 = group["betas"]
    first, second = 1.0, 1.0
    if group["bias_correction"]:
        first, second = 1 / (1 - beta1**part.step), 1 / (1 - beta2**part.step)
    return Coefficients(
        beta1=beta1,
        gain1=(1 - beta1) * scale,
        beta2=beta2,
        gain2=(1 - beta2) * scale**2,
        scale=scale,
        first=first,
        second=second,
        eps=group["eps"],
        decay=group["weight_decay"],
    )


def advance(gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Coefficients) -> Tensor:
    """m = beta1 m + gain1 g and v = beta2 v + gain2 g^2, in place. Returns sqrt(v^) + eps."""
    add_scaled(exp_avg.mul_(c.beta1), gradient, c.gain1)
    add_scaled(exp_avg_sq.mul_(c.beta2), gradient.square(), c.gain2)
    return root(exp_avg_sq, c)


def add_scaled(target: Tensor, source: Tensor, factor: float) -> Tensor:
    """target += factor source. As a plain product under torch.compile, which compiles again for every `alpha`."""
    return target.add_(source * factor) if torch.compiler.is_compiling() else target.add_(source, alpha=factor)


def root(exp_avg_sq: Tensor, c: Coefficients) -> Tensor:
    return exp_avg_sq.mul(c.second).sqrt_().add_(c.eps)


def advance_many(
    gradient: list[Tensor], exp_avg: list[Tensor], exp_avg_sq: list[Tensor], cs: list[Coefficients]
) -> list[Tensor]:
    """`advance` in multi-tensor operations."""
    torch._foreach_mul_(exp_avg, [c.beta1 for c in cs])
    torch._foreach_add_(exp_avg, torch._foreach_mul(gradient, [c.gain1 for c in cs]))
    torch._foreach_mul_(exp_avg_sq, [c.beta2 for c in cs])
    torch._foreach_addcmul_(exp_avg_sq, gradient, gradient, [c.gain2 for c in cs])
    return root_many(exp_avg_sq, cs)


def root_many(exp_avg_sq: list[Tensor], cs: list[Coefficients]) -> list[Tensor]:
    roots = list(torch._foreach_mul(exp_avg_sq, [c.second for c in cs]))
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, [c.eps for c in cs])
    return roots
