"""Looks whether copies of units that a change of shape has made have become different, or only cost what units cost."""

from typing import Any

from pretrain.engine.equal_units import equal_units
from pretrain.recipe import ResolvedStage
from pretrain.training.events import Hook, TrainerView

STEPS = 100
"""In a stage, until its copies are looked at."""


class EqualUnits(Hook):
    """Writes the event `equal_units` if units that an operator has copied still equal one another after STEPS steps."""

    name = "equal_units"

    def __init__(self) -> None:
        self.stage, self.entered = "", 0

    def state(self) -> dict[str, Any]:
        return {"stage": self.stage, "entered": self.entered}

    def restore(self, state: dict[str, Any]) -> None:
        self.stage, self.entered = state["stage"], state["entered"]

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        if stage.name != self.stage:  # else a resumed run continues within it
            self.stage, self.entered = stage.name, trainer.progress.step

    def on_boundary(self, trainer: TrainerView) -> None:
        stage, step = trainer.stage, trainer.progress.step
        if step - self.entered != STEPS or not any(operator.copies_units for operator in stage.grow):
            return
        units = equal_units(trainer.engine)
        if units:
            found = ", ".join(f"{count:,} of {axis}" for axis, count in units.items())
            message = f"step {step:,}: units still equal another after {STEPS} steps of stage {stage.name}: {found}"
            place = {"step": step, "stage": stage.name}
            trainer.call("on_event", {"event": "equal_units", **place, "units": units, "message": message})
