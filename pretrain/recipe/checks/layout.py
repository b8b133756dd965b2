"""Whether a stage's shape can be computed in its layout."""

from model.errors import UserError
from pretrain.recipe.run import ResolvedStage


def check_layout(stage: ResolvedStage, before: ResolvedStage | None) -> None:
    """Raises UserError naming the axis, the option or the row length that the layout cannot divide."""
    stage.config.check_tensor_parallel(stage.tensor_parallel)
    for operator in stage.grow:
        operator.check_layout(stage.config, stage.tensor_parallel)
    if stage.sequence_parallel:
        # The loss just after a change of shape is measured on rows of the stage before.
        lengths = {"sequence": stage.sequence}
        lengths |= {f"sequence of stage {before.name}": before.sequence} if before else {}
        _check_sequence_parallel(stage.tensor_parallel, lengths)


def _check_sequence_parallel(tensor_parallel: int, lengths: dict[str, int]) -> None:
    for key, length in lengths.items():
        if length % tensor_parallel:
            raise UserError(
                f"{key} {length} is not a multiple of layout.tensor_parallel {tensor_parallel}, as sequence_parallel "
                f"requires; choose a multiple of {tensor_parallel}, or leave sequence_parallel out"
            )
