"""Whether the phases of a schedule have room for their warmup and hold."""

from model.errors import UserError
from pretrain.recipe.run import Run


def check_schedule(run: Run) -> None:
    for phase in run.learning_rate.phases:
        if phase.warmup + phase.hold > phase.length:
            names = [stage.name for stage in run.stages if stage.restart is not None and stage.start == phase.start]
            key = f"stage {names[0]}: schedule.restart" if names else "schedule"
            raise UserError(
                f"{key}: warmup ({phase.warmup:g} {run.unit}) and hold ({phase.hold:g}) exceed the {phase.length:g} "
                "they are part of; lower one of them"
            )
