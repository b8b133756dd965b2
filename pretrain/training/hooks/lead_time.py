"""Measures how long it takes from a signal until the run is saved, and says in a job what its `--signal` should be."""

import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import psutil

from pretrain.launch.slurm import say
from pretrain.runs import journal
from pretrain.runs.folder import RunFolder
from pretrain.runs.lead_time import advised_seconds, lead_lines, measured
from pretrain.training.events import Hook, TrainerView


class LeadTime(Hook):
    """On rank 0. A signal is heard at the end of a step: it may come just after one, or while the run starts."""

    is_first: ClassVar[bool] = True
    """Whether nothing has been trained in this process yet. Pilots are, before their run."""

    def __init__(self, folder: RunFolder, signals: Sequence[str]):
        self.folder, self.signals = folder, signals
        self.step_seconds = self.save_seconds = 0.0
        self.advised: int | None = None

    def on_start(self, trainer: TrainerView) -> None:
        self.advised = measured(self.folder.path)
        self.heard = psutil.Process().create_time() if LeadTime.is_first else time.time()
        LeadTime.is_first = False
        if not self.folder.is_training:
            self._say()

    def on_boundary(self, trainer: TrainerView) -> None:
        before, self.heard = self.heard, time.time()
        self.step_seconds = max(self.step_seconds, self.heard - before)

    def on_event(self, trainer: TrainerView, event: dict[str, Any]) -> None:
        if event["event"] != "checkpoint":
            return
        self.save_seconds = max(self.save_seconds, event["pause_seconds"] + event["write_seconds"])
        advised = advised_seconds(self.step_seconds, self.save_seconds)
        if advised > (self.advised or 0):
            self.advised = advised
            parts = {"step_seconds": round(self.step_seconds, 1), "save_seconds": round(self.save_seconds, 1)}
            journal.write(self.folder.path, "lead", step=trainer.progress.step, seconds=advised, **parts)
            self._say()

    def _say(self) -> None:
        if "SLURM_JOB_ID" in os.environ:
            for line in lead_lines(self.advised, self.signals):
                say(line)
