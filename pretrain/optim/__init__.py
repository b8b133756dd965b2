"""Optimizers: one file or folder each, with its options, and this list. `section.py` makes the recipe's keys of it."""

from pretrain.optim.adamw import AdamWOptions
from pretrain.optim.lamb import LambOptions
from pretrain.optim.lans import LansOptions
from pretrain.optim.muon import MuonOptions
from pretrain.optim.options import OptimizerOptions
from pretrain.optim.stableadamw import StableAdamWOptions

OPTIMIZERS: tuple[type[OptimizerOptions], ...] = (
    AdamWOptions,
    LambOptions,
    LansOptions,
    MuonOptions,
    StableAdamWOptions,
)
"""The first is the default."""
