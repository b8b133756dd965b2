"""Which units of an engine's model are copies of one another, down to their weights."""

from zlib import crc32

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from growth.operators.width import FIELDS
from model.parameters import ParameterSpec, parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.exchange import read_state

TOLERANCE = 1e-6
"""Relative. Copies of the same gradients differ by rounding at most."""

Prints = dict[tuple[str, int | None], Tensor]
"""For every axis and block (None: outside the blocks), two numbers for each unit that equal units share."""


def equal_units(engine: DeepSpeedEngine) -> dict[str, int]:
    """How many units of each axis equal another one in all that they compute, by axis; without axes that have none.
    Collective."""
    state = read_state(engine)
    table = parameter_table(state.config)
    prints: Prints = {}
    for name, spec in table.items():
        for position, axis in enumerate(spec.axes):
            if axis.name in FIELDS and axis.role == "produced":
                block = spec.block if axis.name in ("heads", "ffn") else None
                total = prints.setdefault((axis.name, block), torch.zeros(axis.size, 2, dtype=torch.float64))
                if name in state.records:
                    total += _prints(spec, position, state.records[name].weight)
    counts: dict[str, int] = {}
    for (axis_name, _), total in prints.items():
        whole = total.to(device())
        dist.all_reduce(whole)
        counts[axis_name] = counts.get(axis_name, 0) + _num_equal(whole.cpu())
    return {axis: count for axis, count in counts.items() if count}


def _prints(spec: ParameterSpec, position: int, weight: Tensor) -> Tensor:
    """Two random sums over the weights of each unit. [units, 2] fp64"""
    units = weight.double().movedim(position, 0).reshape(spec.shape[position], -1)
    generator = torch.Generator().manual_seed(crc32(spec.name.encode()))
    return units @ torch.randn(units.shape[1], 2, dtype=torch.float64, generator=generator)


def _num_equal(prints: Tensor) -> int:
    """How many rows equal another one."""
    ordered = prints[prints[:, 0].argsort()]
    close = ((ordered[1:] - ordered[:-1]).abs() <= TOLERANCE * prints.std(dim=0)).all(dim=1)
    first, second = torch.zeros(len(prints), dtype=torch.bool), torch.zeros(len(prints), dtype=torch.bool)
    first[:-1], second[1:] = close, close
    return int((first | second).sum())
