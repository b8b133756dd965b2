"""States that a run keeps under a name, and the operators that go back to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from growth.operators import shapes
from growth.operators.interpolate import Interpolate, check_same_tensors
from growth.operators.rewind import INITIAL, Rewind
from model.errors import UserError

if TYPE_CHECKING:
    from pretrain.recipe.resolve import ResolvedStage


def kept_names(stages: Sequence[ResolvedStage]) -> list[str]:
    """Under `checkpoints/`: what stages keep, and the state before the first step where some stage goes back to it."""
    asked = [operator.checkpoint for stage in stages for operator in stage.grow if _goes_back(operator)]
    return [*([INITIAL] if INITIAL in asked else []), *(stage.keep for stage in stages if stage.keep)]


def check_kept(stages: Sequence[ResolvedStage]) -> None:
    """Raises UserError where a stage goes back to a state that is not kept yet, or that has another shape.

    A name that no stage keeps is taken for a path.
    """
    kept = {INITIAL: stages[0].config}
    for before, stage in pairwise(stages):
        if before.keep:
            kept[before.keep] = before.config
        for operator, shape in zip(stage.grow, shapes(before.config, stage.grow, stage.shape), strict=False):
            if not _goes_back(operator):
                continue
            if operator.checkpoint in kept:
                check_same_tensors(operator.name, operator.checkpoint, kept[operator.checkpoint], shape)
            elif operator.checkpoint in kept_names(stages):
                raise UserError(f"stage {stage.name}: {operator.checkpoint!r} is kept only after it; keep it earlier")


def _goes_back(operator: object) -> bool:
    return isinstance(operator, Interpolate | Rewind)
