"""Keeps the journal of a run, from which `status` tells how it stands, and notifies (`faults.notify`)."""

import os
from typing import Any

import torch.distributed as dist

from pretrain.cost.ahead import stages_ahead
from pretrain.engine.exits import Stop
from pretrain.launch.job import LAUNCH
from pretrain.launch.outcome import ExitCode
from pretrain.launch.survivors import Cause
from pretrain.recipe import ResolvedStage
from pretrain.runs import journal
from pretrain.runs.folder import RunFolder
from pretrain.runs.notify import notify_meanwhile
from pretrain.training.events import Hook, TrainerView

UNKNOWN = "the start before it ended without a word: it was killed, or its node was lost"


class Journal(Hook):
    def __init__(self, folder: RunFolder, command: str | None):
        self.run_folder, self.folder, self.command = folder, folder.path, command
        self.lost_steps = 0

    def on_start(self, trainer: TrainerView) -> None:
        """Before Metrics, which drop the steps that are lost."""
        step = trainer.progress.step
        written = max((line["step"] for line in journal.tail(self.run_folder.metrics)), default=step)
        self.lost_steps = max(0, written - step)
        self.begin(step)

    def begin(self, step: int) -> None:
        """Notes that this process trains, once: a rollback is told when it is reported, and pilots begin their run."""
        if self.run_folder.is_training:
            return
        self.run_folder.is_training = True
        entries = journal.read(self.folder)
        is_first = not any(entry["event"] in journal.STARTS for entry in entries)
        self._write(
            "start" if is_first else "restart",
            step=step,
            lost_steps=self.lost_steps,
            nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
            ranks=dist.get_world_size(),
            job=os.environ.get("SLURM_JOB_ID"),
            launch=os.environ.get(LAUNCH),
            **({} if is_first else _cause(entries)),
        )

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        run, ahead = trainer.run, stages_ahead(trainer.run, stage.index)
        self._write("stage", step=trainer.progress.step, stage=stage.name, unit=run.unit, ahead=ahead)

    def on_event(self, trainer: TrainerView, event: dict[str, Any]) -> None:
        if event["event"] == "rollback":
            self._write("rollback", step=event["step"], lost_steps=self.lost_steps, cause=event["message"])

    def on_end(self, trainer: TrainerView) -> None:
        self._write("finished", step=trainer.progress.step)

    def _write(self, event: str, **values: Any) -> None:
        self.run_folder.start.check()
        entry = journal.write(self.folder, event, **values)
        if event not in journal.ENDS:  # which the launcher tells, as it has to where all ranks died
            notify_meanwhile(self.command, self.folder, entry)


def record_stop(folder: RunFolder, step: int, stop: Stop) -> None:
    """All ranks leave together. Only rank 0 writes."""
    if dist.get_rank() == 0:
        event = "preempted" if stop.code in (ExitCode.PREEMPTED, ExitCode.REGROUP) else "failure"
        journal.write(folder.path, event, step=step, cause=str(stop), code=int(stop.code))


def _cause(entries: list[journal.Entry]) -> dict[str, Any]:
    """Why the start before ended: what its launcher says; else what it has written after it began."""
    told = Cause.from_environment()
    if told.cause:
        return {"cause": told.cause, "node": next(iter(told.failed_nodes), None)}
    last = next((entry for entry in reversed(entries) if entry["event"] in (*journal.STARTS, *journal.ENDS)), {})
    ended = last if last.get("event") in journal.ENDS else {}
    return {"cause": ended.get("cause", UNKNOWN), "node": ended.get("node")}
