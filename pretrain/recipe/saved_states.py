"""States that a run keeps under a name, and the operators that go back to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from growth.operators import shapes
from growth.operators.rewind import INITIAL
from growth.operators.rollback import GoingBack
from model.errors import UserError, nearest
from pretrain.checkpoint import find_checkpoint
from pretrain.checkpoint.files import INDEX

if TYPE_CHECKING:
    from pretrain.recipe.resolve import ResolvedStage


def kept_names(stages: Sequence[ResolvedStage]) -> list[str]:
    """Under `checkpoints/`: what stages keep, and the state before the first step where some stage goes back to it."""
    asked = [operator.checkpoint for _, operator in _going_back(stages)]
    return [*([INITIAL] if INITIAL in asked else []), *(stage.keep for stage in stages if stage.keep)]


def check_kept(stages: Sequence[ResolvedStage]) -> None:
    """Raises UserError where a stage goes back to a state that is not kept yet, or that has or may have another shape.

    A name that no stage keeps is taken for a path.
    """
    kept, may_have_split = {INITIAL: stages[0].config}, False
    kept_as_split: list[str] = []
    for before, stage in pairwise(stages):
        may_have_split = before.split is not None or (may_have_split and not before.grow)
        if before.keep:
            kept[before.keep] = before.config
            kept_as_split += [before.keep] if may_have_split else []
        for operator, shape in zip(stage.grow, shapes(before.config, stage.grow, stage.shape), strict=False):
            if not isinstance(operator, GoingBack):
                continue
            if operator.checkpoint in kept_as_split:
                raise UserError(
                    f"stage {stage.name}: grow {operator.name}: {operator.checkpoint} is kept when its groups may have "
                    "split, so its shape is not known beforehand; keep it before the stage with split, or once unshared"
                )
            if operator.checkpoint in kept:
                operator.check(kept[operator.checkpoint], shape)
            elif operator.checkpoint in kept_names(stages):
                raise UserError(f"stage {stage.name}: {operator.checkpoint!r} is kept only after it; keep it earlier")


def check_saved(stages: Sequence[ResolvedStage]) -> None:
    """Raises UserError where a stage goes back to what no stage keeps and what is no checkpoint on disk either, or
    where one keeps what no later stage goes back to."""
    kept = dict.fromkeys([INITIAL, *kept_names(stages)])
    for stage, operator in _going_back(stages):
        name = operator.checkpoint
        if name not in kept and not _is_checkpoint(Path(name)):
            raise UserError(
                f"stage {stage.name}: grow {operator.name}: no stage keeps {name!r}{nearest(name, kept)}, and no "
                f"checkpoint has that path; kept are: {', '.join(kept)}"
            )
    used = [operator.checkpoint for _, operator in _going_back(stages)]
    for stage in stages:
        if stage.keep and stage.keep not in used:
            raise UserError(
                f"stage {stage.name}: keep {stage.keep!r}: no later stage goes back to it; remove it, or name it in a "
                "later interpolate or rewind"
            )


def _going_back(stages: Sequence[ResolvedStage]) -> list[tuple[ResolvedStage, GoingBack]]:
    return [(stage, operator) for stage in stages for operator in stage.grow if isinstance(operator, GoingBack)]


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() and (find_checkpoint(path) / INDEX).is_file()
