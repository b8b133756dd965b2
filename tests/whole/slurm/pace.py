"""A plugin of the campaign's recipe: ranks that train leave the cores to those that start."""

import os
import time

from pretrain.training.events import Hook, StepResult, TrainerView

SECONDS = 0.2


class Pace(Hook):
    """A pause after each step on the cluster; the runs that follow the same layouts elsewhere need none."""

    name = "pace"

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        if "SLURM_JOB_ID" in os.environ:
            time.sleep(SECONDS)
