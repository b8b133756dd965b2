"""Writes metrics.jsonl (one object for each step or event), TensorBoard's files, and summary.json at the end."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from model.errors import UserError
from pretrain.checkpoint.tensors import replace_text
from pretrain.recipe import ResolvedStage
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History, final_loss, truncate, usual_speed
from pretrain.training.events import Evaluation, GrowthEvent, Hook, StepResult, TrainerView

DRAWN = ("loss", "mlm_loss", "mlm_accuracy", "lr", "grad_norm", "tokens_per_second")
"""Numbers of a step that TensorBoard shows."""


class Metrics(Hook):
    """On start, a resumed run drops the lines that were written after its checkpoint."""

    name = "metrics"

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.num_lines = 0
        self.stage = ""
        self._opened: list[Any] = []

    def on_start(self, trainer: TrainerView) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(self.folder.tensorboard), purge_step=trainer.progress.step + 1)
        self.num_lines = truncate(self.folder.metrics, self.num_lines, self.folder.start)
        self.file = self.folder.metrics.open("a", encoding="utf-8")
        self._opened = [self.board, self.file]

    def state(self) -> dict[str, Any]:
        return {"num_lines": self.num_lines, "stage": self.stage}

    def restore(self, state: dict[str, Any]) -> None:
        self.num_lines, self.stage = state["num_lines"], state["stage"]

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        if stage.name != self.stage:  # else a resumed run continues within it
            self.stage = stage.name
            self.board.add_text("stage", f"{stage.name}: {stage.config.summary()}", trainer.progress.step)
            self.board.add_scalar("stage", stage.index, trainer.progress.step)  # jumps where the stage changes
            self._write(
                {"event": "stage", "step": trainer.progress.step, "stage": stage.name, "shape": stage.config.summary()}
            )

    def on_event(self, trainer: TrainerView, event: dict[str, Any]) -> None:
        self._write(event)

    def on_growth(self, trainer: TrainerView, event: GrowthEvent) -> None:
        self._write(event.to_json())

    def on_validation(self, trainer: TrainerView, evaluation: Evaluation) -> None:
        step, tokens = trainer.progress.step, trainer.progress.num_tokens
        values = {"valid_loss": evaluation.loss, "valid_accuracy": evaluation.accuracy}
        stage = trainer.stage
        told = {"objective": stage.objective} if stage.objective != "mlm" else {}
        self._write({"event": "validation", "step": step, "stage": stage.name, "tokens": tokens, **told, **values})
        self._draw(values, step)

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        values = result.to_json()
        self._write(values)
        self._draw({name: values[name] for name in DRAWN}, result.step)

    def on_save(self, trainer: TrainerView) -> None:
        """What the checkpoint counts on is on disk before it, even if the power goes."""
        if self._opened:
            with self._writing():
                os.fsync(self.file.fileno())

    def on_leave(self, trainer: TrainerView) -> None:
        for opened in self._opened:  # nothing, if another hook stopped the run at its start
            with suppress(OSError):  # of a full disk; what the run stops with must be read
                opened.close()

    def on_end(self, trainer: TrainerView) -> None:
        self.on_leave(trainer)
        summary = summarize(trainer, History.read(self.folder.path))
        replace_text(self.folder.summary, json.dumps(summary, indent=1) + "\n", self.folder.start)

    def _write(self, values: dict[str, Any]) -> None:
        self.folder.start.check()
        with self._writing():
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()
        self.num_lines += 1

    def _draw(self, values: dict[str, float], step: int) -> None:
        with self._writing():
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises UserError if the disk refuses the write or the folder is gone."""
        fault: OSError | None = None
        try:
            yield
        except OSError as error:
            fault = error
        if os.fstat(self.file.fileno()).st_nlink == 0:
            raise UserError(f"{self.folder.metrics} has been deleted while the run wrote it; start the run again")
        if fault is not None:
            remedy = "make room" if fault.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
            raise UserError(
                f"{self.folder.metrics} cannot be written: {fault.strerror}; {remedy}, and start the run again"
            )


def summarize(trainer: TrainerView, history: History) -> dict[str, Any]:
    """The run in one object."""
    run, progress, validations = trainer.run, trainer.progress, history.events("validation")
    return {
        "name": run.recipe.name,
        "steps": progress.step,
        "tokens": progress.num_tokens,
        "flops": progress.flops,
        "seconds": progress.train_seconds,
        "device_seconds": progress.device_seconds * run.num_ranks,
        "ranks": run.num_ranks,
        "validated_on": {
            "rows": run.recipe.validation.rows,
            "tokens": trainer.stage.sequence,
            "split_hash": trainer.corpus.split_hash("valid"),
        },
        "initial_valid_loss": validations[0]["valid_loss"],
        "valid_loss": validations[-1]["valid_loss"],
        "valid_accuracy": validations[-1]["valid_accuracy"],
        "stages": [_summary(stage, history) for stage in run.stages if history.steps_of(stage.name)],
        "growth": history.events("growth"),
        **({"before": asdict(progress.before)} if progress.before else {}),
    }


def _summary(stage: ResolvedStage, history: History) -> dict[str, Any]:
    steps = history.steps_of(stage.name)
    return {
        "name": stage.name,
        "shape": stage.config.summary(),
        "steps": len(steps),
        "loss": final_loss(steps),
        "tokens_per_second": usual_speed(steps),
        "tokens": steps[-1]["tokens"],
        "flops": steps[-1]["flops"],
    }
