"""`until: auto`: a FLOP buys more in the next stage than in this one.

Let a token cost c FLOPs in this stage and c' in the next, let the loss fall by s nats a token now, and by m on average
since the stage's warm-up. The stage ends when

    s / c  <  gain * m / c'

What a token will bring in the next stage is not known before it begins. That it brings what a token brought in this one
on average (gain 1) is the assumption of the marginal value theorem (Charnov 1976): leave a patch when the rate of gain
has fallen to what patches give on average, the way to the next one included. Here the dearer tokens are the way.

On a loss a - b log(t) from t0 on, the rule holds from t = x t0 on with (1 - 1/x) / log(x) = c / c': 4.9 t0 for twice
the cost, 50 t0 for four times. A loss that falls as fast as ever ends no stage before a dearer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pretrain.cost.savings import stage_flops
from pretrain.stage_rules.curve import CurveRule, Point, fall_per_efold
from pretrain.stage_rules.settings import Auto

if TYPE_CHECKING:
    from pretrain.recipe import ResolvedStage, Run


class NextStagePays(CurveRule):
    def __init__(self, name: str, settings: Auto, run: Run, stage: ResolvedStage):
        super().__init__(name, settings, run, stage)
        costs = [_flops_per_token(run, each) for each in (stage, run.stages[stage.index + 1])]
        self.cost_ratio = costs[1] / costs[0]

    def judge(self, points: Sequence[Point]) -> tuple[bool, dict[str, float]]:
        now, mean = falls_per_flop(points, self.settings.window)
        numbers = {"fall_now": now, "fall_mean": mean, "cost_ratio": self.cost_ratio}
        return next_stage_pays(now, mean, self.cost_ratio, self.settings.gain), numbers


def falls_per_flop(points: Sequence[Point], window: int) -> tuple[float, float]:
    """Nats a FLOP: now, and on average since the first point."""
    first, last = points[0], points[-1]
    return fall_per_efold(points, window) / last.flops, (first.loss - last.loss) / (last.flops - first.flops)


def next_stage_pays(now: float, mean: float, cost_ratio: float, gain: float = 1.0) -> bool:
    """`cost_ratio`: c' / c. A loss that has stopped falling is always a reason to go on to the next stage."""
    return now <= 0 or now * cost_ratio < gain * mean


def _flops_per_token(run: Run, stage: ResolvedStage) -> float:
    return stage_flops(stage, run.recipe.data.mask_rate) / (stage.global_batch * stage.sequence)
