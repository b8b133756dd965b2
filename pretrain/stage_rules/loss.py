"""`until: {loss: {below: X}}`: the mean training loss over the last steps is low enough."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pretrain.settings.values import Number
from pretrain.stage_rules.base import Check, Verdict, Watch
from pretrain.stage_rules.curve import LossCurve
from pretrain.stage_rules.view import StepView, TrainingView


class Loss(Check):
    key: ClassVar[str] = "loss"

    below: Number
    """End the stage when the mean training loss since the last check is below this, in nats."""

    def words(self) -> str:
        return f"the loss is below {self.below:g}{self.checks_in_words()}"

    def watch(self, training: TrainingView) -> Watch:
        return LossBelow(self)


class LossBelow(Watch):
    def __init__(self, rule: Loss):
        super().__init__(rule.key, rule.steps_between, rule.checks)
        self.below, self.curve = rule.below, LossCurve(rule.steps_between)

    def see(self, training: TrainingView, step: StepView) -> None:
        super().see(training, step)
        self.curve.add(step.flops, step.loss)

    def check(self, training: TrainingView) -> Verdict:
        loss = self.curve.points[-1].loss
        return Verdict.of(loss < self.below, loss=loss)

    def state(self) -> dict[str, Any]:
        return super().state() | {"curve": self.curve.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.curve.restore(state["curve"])
