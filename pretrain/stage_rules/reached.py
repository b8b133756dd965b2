"""The watch of the rules that count something the run counts anyway: tokens, or hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pretrain.stage_rules.base import Verdict, Watch
from pretrain.stage_rules.view import TrainingView

if TYPE_CHECKING:
    from pretrain.checkpoint.progress import Progress


class Reached(Watch):
    """Holds once `read(progress)` has grown by `amount` since the stage began."""

    def __init__(self, name: str, amount: float, read: Callable[[Progress], float], training: TrainingView):
        super().__init__(name)
        self.amount, self.read, self.start = amount, read, read(training.progress)

    def check(self, training: TrainingView) -> Verdict:
        return Verdict.of(self.read(training.progress) - self.start >= self.amount)

    def state(self) -> dict[str, Any]:
        return super().state() | {"start": self.start}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.start = state["start"]
