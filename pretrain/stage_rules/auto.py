"""`until: auto`: a FLOP buys more in the next stage than in this one.

Let a token cost c FLOPs in this stage and c' in the next. Let the loss fall by s nats per token now, and by m on
average since the stage's warmup. The stage ends when

    s / c  <  gain * m / c'

How much a token will gain in the next stage is unknown before it begins. The rule assumes that it gains what a token of
this stage did on average (gain 1). This is the marginal value theorem (Charnov 1976): leave a patch when its rate of
gain has fallen to the average rate of patches, including the way to the next one. Here the way is the more expensive
tokens.

On a loss a - b log(t) from t0 on, the rule holds from t = x t0 on with (1 - 1/x) / log(x) = c / c': 4.9 t0 for twice
the cost, 50 t0 for four times. A loss that keeps falling at the same rate never ends a stage before a more expensive
one.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from pretrain.settings.values import Number
from pretrain.stage_rules.base import Watch
from pretrain.stage_rules.curve import CurveRule, CurveWatch, Point, fall_per_efold
from pretrain.stage_rules.view import TrainingView


class Auto(CurveRule):
    key: ClassVar[str] = "auto"

    gain: Annotated[Number, Field(gt=0)] = 1.0
    """Expected gain per token in the next stage, as a multiple of the average gain in this one. Raise it to move on
    earlier."""

    def words(self) -> str:
        return f"a FLOP buys more in the next stage{self.checks_in_words()}"

    def watch(self, training: TrainingView) -> Watch:
        return NextStagePays(self, training)


class NextStagePays(CurveWatch):
    def __init__(self, rule: Auto, training: TrainingView):
        super().__init__(rule, training)
        following = training.run.stages[training.stage.index + 1]
        self.cost_ratio = training.flops_per_token(following) / training.flops_per_token(training.stage)
        self.gain = rule.gain

    def judge(self, points: Sequence[Point]) -> tuple[bool, dict[str, float]]:
        now, mean = falls_per_flop(points, self.rule.window)
        numbers = {"fall_now": now, "fall_mean": mean, "cost_ratio": self.cost_ratio}
        return next_stage_pays(now, mean, self.cost_ratio, self.gain), numbers


def falls_per_flop(points: Sequence[Point], window: int) -> tuple[float, float]:
    """Nats per FLOP: now, and on average since the first point."""
    first, last = points[0], points[-1]
    return fall_per_efold(points, window) / last.flops, (first.loss - last.loss) / (last.flops - first.flops)


def next_stage_pays(now: float, mean: float, cost_ratio: float, gain: float = 1.0) -> bool:
    """`cost_ratio` is c' / c. A loss that has stopped falling always ends the stage."""
    return now <= 0 or now * cost_ratio < gain * mean
