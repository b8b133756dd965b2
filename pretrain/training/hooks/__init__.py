"""The hooks of a run. To add one, write its file here and put it into the list below.

Every hook hears of a step before any hook hears of the next place. Within a place hooks are called in this order.
"""

from collections.abc import Sequence

import torch.distributed as dist

from pretrain.recipe import Recipe
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Hook
from pretrain.training.hooks.checkpoints import Checkpoints
from pretrain.training.hooks.coefficients import Coefficients
from pretrain.training.hooks.console import ConsoleDisplay
from pretrain.training.hooks.equal_units import EqualUnits
from pretrain.training.hooks.expected_step import ExpectedStep
from pretrain.training.hooks.farewell import Farewell
from pretrain.training.hooks.journal import Journal
from pretrain.training.hooks.lead_time import LeadTime
from pretrain.training.hooks.memory import Memory
from pretrain.training.hooks.memory_checkpoints import MemoryCheckpoints
from pretrain.training.hooks.metrics import Metrics
from pretrain.training.hooks.non_finite import NonFiniteGuard
from pretrain.training.hooks.picture import LossPicture
from pretrain.training.hooks.preemption import Preemption
from pretrain.training.hooks.regroup import Regroup, can_regroup
from pretrain.training.hooks.report import Report
from pretrain.training.hooks.restarts import Restarts
from pretrain.training.hooks.rollbacks import Rollbacks
from pretrain.training.hooks.silent_errors import SilentErrors
from pretrain.training.hooks.slow_ranks import SlowRanks
from pretrain.training.hooks.stage_ends import StageEnds
from pretrain.training.hooks.start_up import StartUp
from pretrain.training.hooks.token_losses import TokenLosses
from pretrain.training.hooks.trackers import Tracker
from pretrain.training.hooks.update_size import UpdateSizes
from pretrain.training.hooks.watchdog import Watchdog
from pretrain.training.hooks_of_plugins import hooks_of_plugins


def make_hooks(recipe: Recipe, folder: RunFolder, rollbacks: Rollbacks, extra: Sequence[Hook] = ()) -> list[Hook]:
    """This rank's hooks. `rollbacks` outlives a rollback, which makes the others again."""
    checkpoints = Checkpoints(folder, recipe.checkpoint)
    on_every_rank: list[Hook] = [
        NonFiniteGuard(rollbacks, recipe.faults.non_finite_steps),  # first: a skipped step must reach no other hook
        rollbacks,
        StageEnds(),  # before Checkpoints, which save what it decides
        SilentErrors(rollbacks, recipe.faults),  # before Checkpoints, so that it looks once at a step that is saved
        checkpoints,
        MemoryCheckpoints(folder, recipe.checkpoint.memory_every, checkpoints),
        Preemption(checkpoints),  # after Checkpoints: it saves only what they have not saved at this boundary
        *([Regroup(folder, checkpoints)] if can_regroup() else []),
        Watchdog(recipe.faults.timeout_minutes),
        SlowRanks(),
        Restarts(folder, recipe.faults.restarts),
        TokenLosses(),
        UpdateSizes(),
        EqualUnits(),
        Coefficients(),
        *hooks_of_plugins(recipe.hooks),
        *extra,
    ]
    on_rank_0: list[Hook] = [
        LeadTime(folder, recipe.faults.signals),  # before Journal, which notes that training has begun
        Journal(folder, recipe.faults.notify),  # before Metrics, which drop the steps that a restart loses
        StartUp(),  # these two before Metrics, which write their events
        Memory(),
        *(Tracker(name, folder) for name in recipe.trackers),  # before Metrics, which write their events
        Metrics(folder),
        ConsoleDisplay(),
        ExpectedStep(folder),  # after Metrics and ConsoleDisplay, which name the stage
        LossPicture(folder),  # after Metrics, whose file it draws
        Report(folder),  # after Metrics, whose file it reads
        Farewell(folder),  # after Report, which it names
    ]
    return on_every_rank + on_rank_0 if dist.get_rank() == 0 else on_every_rank
