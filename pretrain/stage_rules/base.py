"""What every rule is: something that sees each step of a stage and now and then says what holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pretrain.checkpoint.progress import Decision
from pretrain.training.events import StepResult, TrainerView

STAGE = "stage"
"""What holds of a stage as a whole."""


@dataclass(frozen=True)
class Verdict:
    """What one check found. The same on all ranks once rank 0's is taken."""

    holds: frozenset[str]
    """STAGE, or the pairs of layers of which it holds; empty for nothing."""
    numbers: Mapping[str, Any] | None = None
    """What was measured, for the metrics; None where that is no news."""

    @classmethod
    def of(cls, holds: bool, **numbers: Any) -> Verdict:
        return cls(frozenset({STAGE} if holds else ()), numbers or None)


class Rule(ABC):
    """A rule of one stage. Its state is JSON, saved with every checkpoint."""

    event = "check"
    """Under which its numbers stand in the metrics."""

    def __init__(self, name: str, every: int = 1, checks: int = 1):
        self.name, self.every, self.checks = name, every, checks
        self.num_steps = 0

    def see(self, trainer: TrainerView, result: StepResult) -> None:
        self.num_steps += 1

    @property
    def is_due(self) -> bool:
        return self.num_steps > 0 and self.num_steps % self.every == 0

    @abstractmethod
    def check(self, trainer: TrainerView) -> Verdict:
        """Collective."""

    def decide(self, trainer: TrainerView, agreed: Collection[str]) -> Decision:
        """What follows once `agreed` has held at enough checks in a row."""
        return Decision(trainer.stage.index, end=trainer.now)

    def state(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.num_steps = state["num_steps"]


def count_agreement(counts: Mapping[str, int], holds: Collection[str]) -> dict[str, int]:
    """Of everything that holds now, at how many checks in a row it has held."""
    return {item: counts.get(item, 0) + 1 for item in sorted(holds)}
