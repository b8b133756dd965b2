"""Writes what happens: metrics.jsonl (one object a step or event), TensorBoard, and summary.json at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pretrain.evaluation import Evaluation
from pretrain.hooks.base import GrowthEvent, Hook, StepResult
from pretrain.run_folder import RunFolder

if TYPE_CHECKING:
    from pretrain.recipe import ResolvedStage
    from pretrain.trainer import Trainer


class Metrics(Hook):
    """On rank 0 only. A resumed run first drops the lines of steps it is going to take again."""

    def __init__(self, folder: RunFolder):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.board = SummaryWriter(str(folder.tensorboard))

    def on_start(self, trainer: Trainer) -> None:
        kept = []
        if self.folder.metrics.is_file():
            lines = self.folder.metrics.read_text("utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= trainer.progress.step]
        self.file = self.folder.metrics.open("w", encoding="utf-8")
        self.file.writelines(line + "\n" for line in kept)
        self.file.flush()

    def on_stage(self, trainer: Trainer, stage: ResolvedStage) -> None:
        self._write(
            {"event": "stage", "step": trainer.progress.step, "stage": stage.name, "shape": stage.config.summary()}
        )

    def on_growth(self, trainer: Trainer, event: GrowthEvent) -> None:
        self._write(event.to_json())

    def on_validation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        step, tokens = trainer.progress.step, trainer.progress.num_tokens
        values = {"valid_loss": evaluation.loss, "valid_accuracy": evaluation.accuracy}
        self._write({"event": "validation", "step": step, "stage": trainer.stage.name, "tokens": tokens, **values})
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        values = result.to_json()
        self._write(values)
        for name in ("loss", "mlm_loss", "mlm_accuracy", "lr", "grad_norm", "tokens_per_second"):
            self.board.add_scalar(name, values[name], result.step)

    def on_end(self, trainer: Trainer) -> None:
        self.board.close()
        self.file.close()
        summary = summarize(trainer, [json.loads(line) for line in self.folder.metrics.read_text("utf-8").splitlines()])
        partial = self.folder.summary.with_suffix(".partial")
        partial.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        partial.replace(self.folder.summary)

    def _write(self, values: dict[str, Any]) -> None:
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()


def summarize(trainer: Trainer, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The run in one object, from its metrics."""
    steps = [line for line in lines if "event" not in line]
    validations = [line for line in lines if line.get("event") == "validation"]
    progress = trainer.progress
    stages = []
    for stage in trainer.run.stages:
        taken = [line for line in steps if line["stage"] == stage.name]
        if taken:
            stages.append(
                {
                    "name": stage.name,
                    "shape": stage.config.summary(),
                    "steps": len(taken),
                    "loss": sum(line["loss"] for line in taken[-20:]) / len(taken[-20:]),
                    "tokens_per_second": sorted(line["tokens_per_second"] for line in taken)[len(taken) // 2],
                    "tokens": taken[-1]["tokens"],
                    "flops": taken[-1]["flops"],
                }
            )
    return {
        "name": trainer.run.recipe.name,
        "steps": progress.step,
        "tokens": progress.num_tokens,
        "flops": progress.flops,
        "seconds": progress.train_seconds,
        "initial_valid_loss": validations[0]["valid_loss"],
        "valid_loss": validations[-1]["valid_loss"],
        "valid_accuracy": validations[-1]["valid_accuracy"],
        "stages": stages,
        "growth": [line for line in lines if line.get("event") == "growth"],
    }
