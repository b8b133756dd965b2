"""Sends the curves to Weights & Biases or trackio, as well as to metrics.jsonl. Neither is a dependency.

The two have the same functions: init, log, finish.
"""

import os
from hashlib import sha256
from importlib import import_module
from typing import Any

from pretrain.recipe import ResolvedStage
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Evaluation, GrowthEvent, Hook, StepResult, TrainerView
from pretrain.training.hooks.metrics import DRAWN

PROJECT = "espalier"


class Tracker(Hook):
    """One service. Its first error is reported, and the run continues without it."""

    def __init__(self, name: str, folder: RunFolder):
        self.service, self.folder = name, folder
        self.module: Any = None

    def on_start(self, trainer: TrainerView) -> None:
        name = self.folder.path.name
        known = sha256(str(self.folder.path.resolve()).encode()).hexdigest()[:16]
        own = {"id": known, "dir": str(self.folder.path)} if self.service == "wandb" else {}
        config = trainer.run.recipe.model_dump(mode="json", by_alias=True)
        self.module = import_module(self.service)
        project = os.environ.get(f"{self.service.upper()}_PROJECT", PROJECT)
        self._call(trainer, "init", project=project, name=name, config=config, resume="allow", **own)

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        self._log(trainer, {"stage": stage.index}, trainer.progress.step)

    def on_growth(self, trainer: TrainerView, event: GrowthEvent) -> None:
        losses = {"growth/loss_before": event.loss_before, "growth/loss_after": event.loss_after}
        self._log(trainer, losses, event.step)

    def on_validation(self, trainer: TrainerView, evaluation: Evaluation) -> None:
        values = {"valid_loss": evaluation.loss, "valid_accuracy": evaluation.accuracy}
        self._log(trainer, values, trainer.progress.step)

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        values = result.to_json()
        self._log(trainer, {name: values[name] for name in (*DRAWN, "tokens", "flops")}, result.step)

    def on_leave(self, trainer: TrainerView) -> None:
        self._call(trainer, "finish")
        self.module = None

    def on_end(self, trainer: TrainerView) -> None:
        self.on_leave(trainer)

    def _log(self, trainer: TrainerView, values: dict[str, float], step: int) -> None:
        self._call(trainer, "log", values, step=step)

    def _call(self, trainer: TrainerView, function: str, *arguments: Any, **options: Any) -> None:
        if self.module is None:
            return
        try:
            getattr(self.module, function)(*arguments, **options)
        except Exception as error:
            self.module = None
            message = f"{self.service} fails ({type(error).__name__}: {error}); the run continues without it"
            trainer.call("on_event", {"event": "tracker", "step": trainer.progress.step, "message": message})
