"""Hooks that count steps from the beginning of a stage, also when the run resumes within it."""

from typing import Any

from pretrain.recipe import ResolvedStage
from pretrain.training.events import Hook, TrainerView


class StageEntry(Hook):
    """Keeps the name of the stage and the step at which it was entered. Its state is saved with the run."""

    def __init__(self) -> None:
        self.stage, self.entered = "", 0

    def state(self) -> dict[str, Any]:
        return {"stage": self.stage, "entered": self.entered}

    def restore(self, state: dict[str, Any]) -> None:
        self.stage, self.entered = state["stage"], state["entered"]

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        if stage.name != self.stage:  # else a resumed run continues within it
            self.stage, self.entered = stage.name, trainer.progress.step
