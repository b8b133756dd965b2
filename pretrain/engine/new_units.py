"""Tells an engine's optimizer which of the elements that it steps on belong to new units (growth/new_units.py)."""

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from growth.new_units import NewUnits
from model.parameters import parameter_table
from pretrain.engine.zero import basic_optimizer, places
from pretrain.optim.new_units import NewEntries


def mark_new_units(engine: DeepSpeedEngine, units: NewUnits) -> None:
    """From the next step on they have their own step count and learning rate (`train_new_units`)."""
    table, tp = parameter_table(engine.module.config), engine.module.tp
    where: dict[Tensor, Tensor] = {}
    for place in places(engine):
        new = units.where(table[place.name])
        if new is None:
            continue
        if place.flat not in where:
            where[place.flat] = torch.zeros(place.flat.numel(), dtype=torch.bool, device=place.flat.device)
        own = tp.shard(table[place.name], new).reshape(-1).narrow(0, place.start, place.numel)
        place.of(where[place.flat]).copy_(own)
    vars(basic_optimizer(engine))["new_entries"] = NewEntries(where)


def train_new_units(engine: DeepSpeedEngine, taken: int, lr_factor: float) -> None:
    """For the next step: how many new units have taken, and their learning rate as a multiple of that of the others."""
    entries = vars(basic_optimizer(engine))["new_entries"]
    entries.taken, entries.lr_factor = taken, lr_factor
