"""`until: {loss_slope: {below: X}}`: the loss falls little while the compute grows by a factor of e.

Shen et al. 2022 (staged training, arXiv 2203.06211) grow a model when the slope of its loss over the logarithm of its
compute reaches a threshold that they fit once for each operator. Here the logarithm is the natural one and the compute
that of the whole run so far.
"""

from collections.abc import Sequence

from pretrain.stage_rules.curve import CurveRule, Point, fall_per_efold


class LossSlope(CurveRule):
    def judge(self, points: Sequence[Point]) -> tuple[bool, dict[str, float]]:
        fall = fall_per_efold(points, self.settings.window)
        return fall < self.settings.below, {"fall": fall}
