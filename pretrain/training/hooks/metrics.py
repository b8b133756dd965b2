"""Writes what happens: metrics.jsonl (one object a step or event), TensorBoard, and summary.json at the end."""

import json
from typing import Any

from pretrain.recipe import ResolvedStage
from pretrain.runs.folder import RunFolder
from pretrain.training.evaluation import num_divisible_rows
from pretrain.training.events import Evaluation, GrowthEvent, Hook, StepResult, TrainerView


class Metrics(Hook):
    """On rank 0 only. A resumed run first drops the lines written after the checkpoint it goes on from."""

    name = "metrics"

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.num_lines = 0
        self.stage = ""

    def on_start(self, trainer: TrainerView) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(self.folder.tensorboard), purge_step=trainer.progress.step + 1)
        lines = self.folder.metrics.read_text("utf-8").splitlines() if self.folder.metrics.is_file() else []
        beside = self.folder.metrics.with_suffix(".partial")
        beside.write_text("".join(line + "\n" for line in lines[: self.num_lines]), "utf-8")
        beside.replace(self.folder.metrics)
        self.file = self.folder.metrics.open("a", encoding="utf-8")

    def state(self) -> dict[str, Any]:
        return {"num_lines": self.num_lines, "stage": self.stage}

    def restore(self, state: dict[str, Any]) -> None:
        self.num_lines, self.stage = state["num_lines"], state["stage"]

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        if stage.name != self.stage:  # else a resumed run goes on within it
            self.stage = stage.name
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
        self._write({"event": "validation", "step": step, "stage": trainer.stage.name, "tokens": tokens, **values})
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        values = result.to_json()
        self._write(values)
        for name in ("loss", "mlm_loss", "mlm_accuracy", "lr", "grad_norm", "tokens_per_second"):
            self.board.add_scalar(name, values[name], result.step)

    def on_leave(self, trainer: TrainerView) -> None:
        self.board.close()
        self.file.close()

    def on_end(self, trainer: TrainerView) -> None:
        self.on_leave(trainer)
        summary = summarize(trainer, [json.loads(line) for line in self.folder.metrics.read_text("utf-8").splitlines()])
        partial = self.folder.summary.with_suffix(".partial")
        partial.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        partial.replace(self.folder.summary)

    def _write(self, values: dict[str, Any]) -> None:
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        self.num_lines += 1


def summarize(trainer: TrainerView, lines: list[dict[str, Any]]) -> dict[str, Any]:
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
        "device_seconds": progress.device_seconds * trainer.run.num_ranks,
        "ranks": trainer.run.num_ranks,
        "validated_on": {
            "rows": num_divisible_rows(trainer.run.recipe.validation.rows, trainer.stage.data_parallel),
            "tokens": trainer.stage.sequence,
            "split_hash": trainer.corpus.split_hash("valid"),
        },
        "initial_valid_loss": validations[0]["valid_loss"],
        "valid_loss": validations[-1]["valid_loss"],
        "valid_accuracy": validations[-1]["valid_accuracy"],
        "stages": stages,
        "growth": [line for line in lines if line.get("event") == "growth"],
    }
