"""What every stage rule is: settings in a recipe, and a watch that looks at the run while the stage lasts.

A rule is one file. Its settings say what they mean in words and what is wrong with them. They import no torch, so that
recipes are read and checked quickly. The watch is made when the stage begins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import Self

from pretrain.settings.values import Amount, Positive, PositiveAmount, Section, Share
from pretrain.stage_rules.view import RunView, StageView, StepView, TrainingView

if TYPE_CHECKING:
    from pretrain.checkpoint.progress import Decision


# ---- in the recipe ----


class StageRule:
    """A rule as a recipe gives it: a Section of keys, or a single value."""

    key: ClassVar[str]
    """Its key in `until`. Metrics, messages and checkpoints use this name, too."""
    waits_for_warmup: ClassVar[bool] = False
    """Whether it ignores the steps of the stage's warmup."""
    in_hours: ClassVar[bool] = True
    """Whether it may stand in a run measured in hours."""

    def words(self) -> str:
        """What has to hold, to follow `until` in a sentence."""
        raise NotImplementedError

    def fault(self, stage: StageView, run: RunView) -> str | None:
        """Why it cannot hold, or makes no sense, on a stage: a message with the key and what to do."""
        return None

    @property
    def least_steps(self) -> int:
        """Steps that it has to see before it can hold."""
        return 0

    @property
    def longest(self) -> str:
        """The setting that most of these steps come from."""
        return ""

    def applies(self, stage: StageView) -> bool:
        """Whether there is anything to watch on a stage, which may have been divided while it ran."""
        return True

    def in_steps(self, count: Callable[[Amount], int]) -> Self:
        """The rule with its shares of the run as counts of steps."""
        return self

    def watch(self, training: TrainingView) -> Watch:
        """Begins to watch the current stage."""
        raise NotImplementedError


class Check(StageRule, Section):
    """A rule that is checked at intervals and acts after several checks in a row at which it held."""

    every: PositiveAmount = Share(1)
    """Check every N steps."""
    checks: Positive = 1
    """Act once the rule has held at N consecutive checks."""

    @property
    def steps_between(self) -> int:
        """`every` as a number of steps. Asked only after `in_steps`."""
        assert isinstance(self.every, int)
        return self.every

    @property
    def least_steps(self) -> int:
        return self.steps_between * self.checks

    @property
    def longest(self) -> str:
        return "checks" if self.checks > self.steps_between else "every"

    def in_steps(self, count: Callable[[Amount], int]) -> Self:
        return self.model_copy(update={"every": max(count(self.every), 1)})

    def checks_in_words(self) -> str:
        every = f"every {self.steps_between:,} steps" if self.steps_between > 1 else "every step"
        return f" (checked {every}" + (f", {self.checks} times in a row)" if self.checks > 1 else ")")


# ---- in the run ----

STAGE: Literal["stage"] = "stage"
Pair = tuple[int, int]
Item = Literal["stage"] | Pair
"""What a rule can hold for: the stage as a whole, or two layers."""


@dataclass(frozen=True)
class Verdict:
    """What one check found. All ranks use rank 0's."""

    holds: frozenset[Item]
    """Empty if it does not hold."""
    numbers: Mapping[str, Any] | None = None
    """What was measured, as JSON for the metrics; None to report nothing."""

    @classmethod
    def of(cls, holds: bool, **numbers: Any) -> Verdict:
        return cls(frozenset({STAGE} if holds else ()), numbers or None)


class Watch(ABC):
    """Watches one stage for one rule. Its state is JSON, saved with every checkpoint."""

    event = "check"
    """The event that reports its numbers."""

    def __init__(self, name: str, every: int = 1, checks: int = 1):
        self.name, self.every, self.checks = name, every, checks
        self.num_steps = 0

    def see(self, training: TrainingView, step: StepView) -> None:
        """Takes note of a step."""
        self.num_steps += 1

    @property
    def is_due(self) -> bool:
        return self.num_steps > 0 and self.num_steps % self.every == 0

    @abstractmethod
    def check(self, training: TrainingView) -> Verdict:
        """Whether the rule holds now. Collective."""

    def decide(self, training: TrainingView, agreed: Collection[Item]) -> Decision:
        """What the run does once the rule has held for `agreed` at enough checks in a row: end the stage, usually."""
        from pretrain.checkpoint.progress import Decision

        return Decision(training.stage.index, end=training.now)

    def state(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.num_steps = state["num_steps"]


def count_agreement(counts: Mapping[Item, int], holds: Collection[Item]) -> dict[Item, int]:
    """For everything that holds now, the number of consecutive checks at which it has held."""
    return {item: counts.get(item, 0) + 1 for item in sorted(holds)}


def item_to_json(item: Item) -> str:
    """`stage`, or `3-4` for layers 3 and 4."""
    return item if isinstance(item, str) else f"{item[0]}-{item[1]}"


def item_from_json(text: str) -> Item:
    if text == STAGE:
        return STAGE
    low, high = text.split("-")
    return int(low), int(high)
