"""Entries of new units, which an optimizer steps on with a step count and a learning rate of their own.

See growth/new_units.py. An engine steps on flat tensors, each with one step count; so these entries are taken out,
given their own step, and put back when all others have had theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**22
"""Elements that are taken out at a time: their gradients and moments are copied for the step."""


@dataclass
class NewEntries:
    where: Mapping[Tensor, Tensor]
    """By the tensor that the optimizer steps on: its new entries, bool [numel]."""
    taken: int = 0
    """Steps that they have taken."""
    lr_factor: float = 1.0
    """Their learning rate, as a multiple of that of the others."""

    def of(self, tensor: Tensor) -> Tensor | None:
        return self.where.get(tensor)


def adamw_apart(
    new: Tensor, taken: int, lr_factor: float, group: Mapping[str, Any], tensors: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Tensor:
    """The weights of new entries after their step, [number of them]; changes nothing.

    tensors: weights, gradients and both moments, [numel] each. new: bool [numel]. taken: steps before this one.
    """
    found = [torch.empty(0, dtype=tensors[0].dtype, device=tensors[0].device)]
    for is_new, *parts in zip(new.split(CHUNK), *(tensor.split(CHUNK) for tensor in tensors), strict=True):
        weight, gradient, exp_avg, exp_avg_sq = (part[is_new] for part in parts)
        fused_adamw([weight], [gradient], [exp_avg], [exp_avg_sq], group, taken + 1, lr_factor)
        found.append(weight)
    return torch.cat(found)


def fused_adamw(
    weights: list[Tensor],
    gradients: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    group: Mapping[str, Any],
    step: int,
    lr_factor: float = 1.0,
) -> None:
    """torch's fused kernel on tensors that have the same settings, in place. step: with this one."""
    torch._fused_adamw_(
        weights,
        gradients,
        exp_avgs,
        exp_avg_sqs,
        [],
        [torch.tensor(float(step), device=weights[0].device)] * len(weights),
        lr=group["lr"] * lr_factor,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )
