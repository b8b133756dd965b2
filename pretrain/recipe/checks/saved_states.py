"""Whether the saved states that operators read exist by then, and have the shape of the model there; and whether the
checkpoints that are to stay are written."""

from math import lcm
from pathlib import Path

from growth.operators import shapes
from growth.operators.saved_state import INITIAL
from model.errors import UserError, nearest
from pretrain.checkpoint import find_checkpoint
from pretrain.checkpoint.files import INDEX
from pretrain.recipe.run import ResolvedStage, Run


def check_shapes_of_saved_states(run: Run) -> None:
    """Raises UserError if a state is saved only after it is read, or has or may have another shape than the model.

    A name that no stage keeps is taken for a path.
    """
    saved, may_have_split = {INITIAL: run.stages[0].config}, False
    saved_while_splitting: list[str] = []

    def check_known(name: str, stage: ResolvedStage, reader: str) -> None:
        if name in saved_while_splitting:
            raise UserError(
                f"stage {stage.name}: {reader}: when {name} is saved its groups may have split, so its shape is not "
                "known beforehand; keep a stage before the one with split, or one after unshare"
            )
        if name in run.saved_states and name not in saved:
            raise UserError(f"stage {stage.name}: {name!r} is saved only after this stage; keep an earlier one")

    before: ResolvedStage | None = None
    for stage in run.stages:
        if before is not None:
            may_have_split = before.split is not None or (may_have_split and not before.grow)
            if before.keep:
                saved[before.keep] = before.config
                saved_while_splitting += [before.keep] if may_have_split else []
            for operator, shape in zip(stage.grow, shapes(before.config, stage.grow, stage.shape), strict=False):
                for name in operator.saved_states_read:
                    check_known(name, stage, f"grow {operator.name}")
                    if name in saved:
                        operator.check_saved_state(name, saved[name], shape)
        if stage.align:
            check_known(stage.align.teacher, stage, "align.teacher")
        before = stage


def check_saved_states(run: Run) -> None:
    """Raises UserError if an operator reads a state that neither a stage keeps nor a checkpoint on disk holds, if a
    stage keeps a state that no later stage reads, or if no checkpoint is written at a step whose own is to stay."""
    _check_kept_steps(run)
    saved = list(dict.fromkeys([INITIAL, *run.saved_states]))
    read = [(stage, operator, name) for stage in run.stages for operator in stage.grow
            for name in operator.saved_states_read]  # fmt: skip
    for stage, operator, name in read:
        if name not in saved and not _is_checkpoint(Path(name)):
            raise UserError(
                f"stage {stage.name}: grow {operator.name}: no stage keeps {name!r}{nearest(name, saved)}, and no "
                f"checkpoint has that path; the saved states are {', '.join(saved)}"
            )
    names_read = [name for stage in run.stages for name in stage.saved_states_read]
    for stage in run.stages:
        if stage.keep and stage.keep not in names_read:
            raise UserError(
                f"stage {stage.name}: keep {stage.keep!r}: no later stage reads it; remove it, or name it in a later "
                "interpolate, rewind or align"
            )


def _check_kept_steps(run: Run) -> None:
    """Checkpoints are written at multiples of `every` and at the ends of stages."""
    every, keep_every = run.recipe.checkpoint.every, run.recipe.checkpoint.keep_every
    if run.unit != "steps" or not keep_every:
        return
    at_ends = any(stage.end % keep_every == 0 for stage in run.stages)
    if not at_ends and (not every or lcm(every, keep_every) > run.end):
        raise UserError(
            f"checkpoint.keep_every {keep_every} keeps nothing: no checkpoint is written at a multiple of it; set "
            f"checkpoint.every, now {every}, to {keep_every} or a divisor of it"
        )


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() and (find_checkpoint(path) / INDEX).is_file()
