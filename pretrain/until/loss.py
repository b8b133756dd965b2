"""`until: {loss: {below: X}}`: the mean training loss over the last steps is low enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.hooks.base import StepResult
from pretrain.recipe.stage_ends import Loss
from pretrain.until.base import Rule, Verdict
from pretrain.until.curve import LossCurve

if TYPE_CHECKING:
    from pretrain.trainer import Trainer


class LossBelow(Rule):
    def __init__(self, name: str, settings: Loss):
        super().__init__(name, settings.every, settings.checks)
        self.below, self.curve = settings.below, LossCurve(settings.every)

    def see(self, trainer: Trainer, result: StepResult) -> None:
        super().see(trainer, result)
        self.curve.add(result.flops, result.loss)

    def check(self, trainer: Trainer) -> Verdict:
        loss = self.curve.points[-1].loss
        return Verdict.of(loss < self.below, loss=loss)

    def state(self) -> dict[str, Any]:
        return super().state() | {"curve": self.curve.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.curve.restore(state["curve"])
