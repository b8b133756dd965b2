"""Gives up on a job that SLURM starts again and again without a step gained.

After a hang or a lost rank the launcher puts the job back into the queue; what breaks each time at the same step would
do so for ever.
"""

import json
import os
from typing import Any

import torch.distributed as dist

from model.errors import UserError
from pretrain.engine.agreement import raise_together
from pretrain.launch.slurm import number_of
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Hook, TrainerView


class Restarts(Hook):
    """Keeps a line for each start of the job, with the step it began at and whether it was left in order."""

    def __init__(self, folder: RunFolder, limit: int):
        self.file = folder.starts
        self.limit = limit

    def on_start(self, trainer: TrainerView) -> None:
        if "SLURM_JOB_ID" not in os.environ:
            return
        error = None
        if dist.get_rank() == 0:
            error = self._begin(os.environ["SLURM_JOB_ID"], number_of("SLURM_RESTART_COUNT", 0), trainer.progress.step)
        raise_together(error)

    def on_leave(self, trainer: TrainerView) -> None:
        """Saved on a signal, or on the way back to a checkpoint: not a fault."""
        starts = self._starts()
        if dist.get_rank() == 0 and starts:
            self._write([*starts[:-1], {**starts[-1], "in_order": True}])

    def _begin(self, job: str, restart: int, step: int) -> UserError | None:
        starts = [start for start in self._starts() if start["job"] == job]  # another job's are past
        if starts and starts[-1]["restart"] == restart:  # after a rollback
            return None
        failed = 0
        for start in reversed(starts):
            if start["in_order"] or start["step"] != step:
                break
            failed += 1
        if failed > self.limit:
            return UserError(
                f"job {job} failed {failed} times in a row without a checkpoint after step {step}, more often than "
                f"faults.restarts = {self.limit} allows; the reasons are in its output"
            )
        self._write([*starts, {"job": job, "restart": restart, "step": step, "in_order": False}])
        return None

    def _starts(self) -> list[dict[str, Any]]:
        return json.loads(self.file.read_text("utf-8")) if self.file.is_file() else []

    def _write(self, starts: list[dict[str, Any]]) -> None:
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(starts, indent=1) + "\n", "utf-8")
        partial.replace(self.file)
