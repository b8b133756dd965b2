"""Leaves at a checkpoint when the nodes of the run are about to change, so that the launcher starts it again with them.

The launcher asks when nodes have come (pretrain/launch/survivors.py); so does whoever makes the file `regroup` in the
run's folder. No step is lost, and no change of shape is under way.
"""

import os

import torch.distributed as dist

from pretrain.engine.agreement import from_rank_0
from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode
from pretrain.launch.survivors import CAUSE
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Hook, TrainerView
from pretrain.training.hooks.checkpoints import Checkpoints


def can_regroup() -> bool:
    """Whether there is a launcher that starts the run again."""
    return CAUSE in os.environ


class Regroup(Hook):
    def __init__(self, folder: RunFolder, checkpoints: Checkpoints):
        self.file = folder.regroup
        self.checkpoints = checkpoints

    def on_boundary(self, trainer: TrainerView) -> None:
        step = trainer.progress.step
        if self.checkpoints.saved_step != step or trainer.now >= trainer.run.end:
            return
        if from_rank_0(self.file.exists()):
            self.checkpoints.store.flush()
            if dist.get_rank() == 0:
                self.file.unlink(missing_ok=True)
            raise Stop(f"saved at step {step}, to continue on the nodes that are there now", code=ExitCode.REGROUP)
