"""Looks whether copies of units that a change of shape has made have become different, or only cost what units cost."""

from pretrain.engine.equal_units import equal_units
from pretrain.training.events import TrainerView
from pretrain.training.stage_entry import StageEntry

STEPS = 100
"""In a stage, until its copies are looked at."""


class EqualUnits(StageEntry):
    """Writes the event `equal_units` if units that an operator has copied still equal one another after STEPS steps."""

    name = "equal_units"

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
