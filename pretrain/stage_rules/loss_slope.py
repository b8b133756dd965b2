"""`until: {loss_slope: {below: X}}`: the loss falls slowly while the compute grows by a factor of e.

Shen et al. 2022 (staged training, arXiv 2203.06211) grow a model when the slope of its loss over the logarithm of its
compute reaches a threshold that they fit once for each operator. Here the logarithm is natural and the compute that of
the whole run so far.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from pretrain.settings.values import Number
from pretrain.stage_rules.base import Watch
from pretrain.stage_rules.curve import CurveRule, CurveWatch, Point, fall_per_efold
from pretrain.stage_rules.view import TrainingView


class LossSlope(CurveRule):
    key: ClassVar[str] = "loss_slope"

    below: Annotated[Number, Field(gt=0)] = 0.052
    """End the stage when the loss falls by less than this, in nats, while the run's FLOPs grow by a factor of e. Shen
    et al. 2022 found 0.052 best for GPT-2, 0.0575 before doubling the depth and 0.0475 before doubling the width."""

    def words(self) -> str:
        return f"the loss falls by less than {self.below:g} nats for each e-fold of FLOPs{self.checks_in_words()}"

    def watch(self, training: TrainingView) -> Watch:
        return SlopeBelow(self, training)


class SlopeBelow(CurveWatch):
    def __init__(self, rule: LossSlope, training: TrainingView):
        super().__init__(rule, training)
        self.below = rule.below

    def judge(self, points: Sequence[Point]) -> tuple[bool, dict[str, float]]:
        fall = fall_per_efold(points, self.rule.window)
        return fall < self.below, {"fall": fall}
