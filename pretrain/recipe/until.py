"""The rules that may end a stage early, with their shares of the run as steps."""

from collections.abc import Callable, Sequence

from pretrain.recipe.schema import Stage
from pretrain.settings.values import Amount
from pretrain.stage_rules.until import Until


def until_in_steps(stages: Sequence[Stage], index: int, in_steps: Callable[[Amount], int]) -> Until | None:
    """What may end a stage early: its own `until`, and `grow_when` of the stage after it."""
    until = stages[index].until
    if index + 1 < len(stages) and (asked := stages[index + 1].grow_when):
        rules = {rule.key: rule for rule in until.rules} if until else {}
        until = Until.model_validate({asked: {}, **rules})
    return until and until.in_steps(in_steps)
