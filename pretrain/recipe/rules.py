"""The rules that may end or divide a stage, with their shares of the run as steps."""

from collections.abc import Callable, Sequence

from pretrain.recipe.schema import Stage
from pretrain.settings.values import Amount
from pretrain.stage_rules.settings import Check, LossCurveRule, Until

InSteps = Callable[[Amount], int]


def until_in_steps(stages: Sequence[Stage], index: int, in_steps: InSteps) -> Until | None:
    """What may end a stage early: its own `until`, and `grow_when` of the stage after it."""
    until = stages[index].until
    if index + 1 < len(stages) and stages[index + 1].grow_when == "auto":
        rules = until.model_dump(exclude_unset=True) if until else {}
        until = Until.model_validate({"auto": {}, **rules})
    if until is None:
        return None
    return until.model_copy(
        update={name: rule_in_steps(rule, in_steps) for name, rule in until if isinstance(rule, Check)}
    )


def rule_in_steps(rule: Check, in_steps: InSteps) -> Check:
    update = {"every": max(in_steps(rule.every), 1)}
    if isinstance(rule, LossCurveRule):
        update["least"] = in_steps(rule.least)
    return rule.model_copy(update=update)
