"""Whether the phases of a schedule have room for their warmup and hold."""

from model.errors import UserError
from pretrain.recipe.run import Run


def check_schedule(run: Run) -> None:
    """Raises UserError for a warm-up, a hold or a climb after a change of shape that is longer than its part."""
    for stage in run.stages:
        if stage.rewarm > stage.length:
            raise UserError(
                f"stage {stage.name}: schedule.rewarm ({run.moment(stage.rewarm)}) is longer than the stage "
                f"({run.moment(stage.length)}), which would end before its learning rate is reached; lower it"
            )
    for phase in run.learning_rate.phases:
        if phase.warmup + phase.hold > phase.length:
            names = [stage.name for stage in run.stages if stage.restart is not None and stage.start == phase.start]
            key = f"stage {names[0]}: schedule.restart" if names else "schedule"
            raise UserError(
                f"{key}: warmup ({phase.warmup:g}) and hold ({phase.hold:g}) take longer than the {phase.length:g} "
                f"{run.unit} that the schedule covers; lower one of them"
            )
