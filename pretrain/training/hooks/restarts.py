"""Gives up on a job that is started again and again without a step gained.

After a hang or a lost rank the launcher puts the job back into the queue, or goes on with the nodes that are left; what
breaks each time at the same step would do so for ever.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch.distributed as dist

from model.errors import UserError
from pretrain.checkpoint.tensors import replace_text
from pretrain.engine.agreement import raise_together
from pretrain.launch.job import job_name
from pretrain.launch.slurm import number_of
from pretrain.launch.survivors import Cause
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Hook, TrainerView


class Restarts(Hook):
    """Keeps a line for each start of the job: the step it began at, what had ended the start before, and whether it was
    left in order."""

    def __init__(self, folder: RunFolder, limit: int):
        self.file, self.start = folder.starts, folder.start
        self.limit = limit
        self.has_begun = False

    def on_start(self, trainer: TrainerView) -> None:
        job = job_name()
        if job is None:
            return
        error = None
        if dist.get_rank() == 0:
            error = self._begin(job, number_of("SLURM_RESTART_COUNT", 0), trainer.progress.step)
        raise_together(error)

    def on_leave(self, trainer: TrainerView) -> None:
        """Saved on a signal, or on the way back to a checkpoint: not a fault. A start that was refused is none."""
        if self.has_begun and dist.get_rank() == 0:
            *before, last = self._starts()
            self._write([*before, {**last, "in_order": True}])

    def _begin(self, job: str, restart: int, step: int) -> UserError | None:
        starts = [start for start in self._starts() if start["job"] == job]  # another job's are past
        this = {"job": job, "restart": restart, "step": step, "in_order": False, **asdict(Cause.from_environment())}
        if starts and all(starts[-1].get(key, 0) == this[key] for key in ("restart", "attempt")):  # after a rollback
            self._write([*starts[:-1], {**this, "step": starts[-1]["step"]}])
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
        self._write([*starts, this])
        return None

    def _starts(self) -> list[dict[str, Any]]:
        """Those on record. A damaged file counts as none: it must not stop a run."""
        with suppress(OSError, ValueError):
            return json.loads(self.file.read_text("utf-8"))
        return []

    def _write(self, starts: list[dict[str, Any]]) -> None:
        replace_text(self.file, json.dumps(starts, indent=1) + "\n", self.start)
        self.has_begun = True
