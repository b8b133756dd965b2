"""`until: {loss: {below: X}}`: the mean training loss over the last steps is low enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.stage_rules.base import Rule, Verdict
from pretrain.stage_rules.curve import LossCurve
from pretrain.stage_rules.settings import Loss
from pretrain.training.events import StepResult, TrainerView


class LossBelow(Rule):
    def __init__(self, name: str, settings: Loss):
        super().__init__(name, settings.every, settings.checks)
        self.below, self.curve = settings.below, LossCurve(settings.every)

    def see(self, trainer: TrainerView, result: StepResult) -> None:
        super().see(trainer, result)
        self.curve.add(result.flops, result.loss)

    def check(self, trainer: TrainerView) -> Verdict:
        loss = self.curve.points[-1].loss
        return Verdict.of(loss < self.below, loss=loss)

    def state(self) -> dict[str, Any]:
        return super().state() | {"curve": self.curve.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.curve.restore(state["curve"])
