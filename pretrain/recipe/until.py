"""The rules that may end a stage early, with their shares of the run as steps."""

from collections.abc import Sequence
from functools import partial

from model.errors import UserError
from pretrain.recipe.schema import Stage
from pretrain.recipe.timeline import Timeline
from pretrain.stage_rules.until import Until


def until_in_steps(stages: Sequence[Stage], index: int, clock: Timeline) -> Until | None:
    """What may end a stage early: its own `until`, and `grow_when` of the stage after it."""
    until = stages[index].until
    if index + 1 < len(stages) and (asked := stages[index + 1].grow_when):
        rules = {rule.key: rule for rule in until.rules} if until else {}
        until = Until.model_validate({asked: {}, **rules})
    for rule in until.rules if until and clock.unit == "seconds" else ():
        if not rule.in_hours:
            raise UserError(
                f"until.{rule.key} is for runs measured in steps, and this one has hours; give it steps instead, or "
                "leave the rule out"
            )
    return until and until.in_steps(partial(clock.steps, key="until"))
