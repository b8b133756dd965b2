"""The section `until` of a stage: one key for each rule of the list, and what the rules of a stage are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import model_validator

from model.errors import UserError
from model.registry import takes
from pretrain.settings.joined import join, joined
from pretrain.settings.values import Amount
from pretrain.stage_rules import STAGE_RULES
from pretrain.stage_rules.base import StageRule, Watch
from pretrain.stage_rules.view import StageView, TrainingView


class Until(joined({rule.key: (rule | None, None) for rule in STAGE_RULES})):  # type: ignore[misc]
    """The first rule that holds ends the stage."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """`auto` means `{auto: {}}`: the rule with its defaults."""
        return {value: {}} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_a_rule(self) -> Until:
        if not self.rules:
            raise UserError(f"names no rule; give one of {', '.join(Until.model_fields)}")
        return self

    @property
    def rules(self) -> list[StageRule]:
        return [rule for _, rule in self if rule is not None]

    def words(self) -> str:
        return " or ".join(rule.words() for rule in self.rules)

    def in_steps(self, count: Callable[[Amount], int]) -> Until:
        """The rules with their shares of the run as counts of steps."""
        return self.model_copy(update={rule.key: rule.in_steps(count) for rule in self.rules})


@takes(StageRule)
def _add(rule: type[StageRule]) -> None:
    if rule.key in Until.model_fields:
        raise UserError(f"a rule until.{rule.key} is there already; give {rule.__name__} another key")
    join(Until, {rule.key: (rule | None, None)})


def rules_of(stage: StageView) -> dict[str, StageRule]:
    """All rules of a stage, by their keys in the recipe."""
    rules = {f"until.{rule.key}": rule for rule in (stage.until.rules if stage.until else ())}
    return rules | ({"split": stage.split} if stage.split else {})


def watch_stage(training: TrainingView) -> list[Watch]:
    """Begins to watch the current stage for each of its rules."""
    stage = training.stage
    return [rule.watch(training) for rule in rules_of(stage).values() if rule.applies(stage)]


def length_in_words(length: str, until: Until | None) -> str:
    """`1,000 steps`, or `at most 1,000 steps, until ...`."""
    return length if until is None else f"at most {length}, until {until.words()}"
