"""`until: {tokens: N}` and `until: {hours: N}`: so much of something that the run counts anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pretrain.stage_rules.base import Rule, Verdict
from pretrain.training.events import TrainerView

if TYPE_CHECKING:
    from pretrain.checkpoint.progress import Progress


class Amount(Rule):
    """Holds once `read(progress)` has grown by `amount` since the stage began."""

    def __init__(self, name: str, amount: float, read: Callable[[Progress], float], progress: Progress):
        super().__init__(name)
        self.amount, self.read, self.start = amount, read, read(progress)

    def check(self, trainer: TrainerView) -> Verdict:
        return Verdict.of(self.read(trainer.progress) - self.start >= self.amount)

    def state(self) -> dict[str, Any]:
        return super().state() | {"start": self.start}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.start = state["start"]
