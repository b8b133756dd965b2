"""The training loss of a stage, thinned to means over equal numbers of steps, and what the rules on it share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field
from typing_extensions import Self

from pretrain.settings.values import Amount, Number, Positive
from pretrain.stage_rules.base import Check, Verdict, Watch
from pretrain.stage_rules.view import StepView, TrainingView


class CurveRule(Check):
    """A rule on the slope of the training loss after the warmup. Each check adds one point to the curve."""

    waits_for_warmup: ClassVar[bool] = True

    checks: Positive = 2
    """Act once the rule has held at N consecutive checks."""
    window: Annotated[int, Field(ge=2)] = 5
    """Measure the slope over the last third of the curve, and over at least this many points."""
    least: Amount = 0
    """Do not end the stage before this many steps after its warmup (or the warmup after growing)."""
    loss_below: Number | None = None
    """Do not end the stage at a loss above this, in nats. The slope is small on the bag-of-words plateau, too."""

    @property
    def least_steps(self) -> int:
        """The first check needs more than `window` points."""
        first = max(self.window + 1, math.ceil(self.steps_before / self.steps_between))
        return self.steps_between * (first + self.checks - 1)

    @property
    def steps_before(self) -> int:
        """`least` as a number of steps. Asked only after `in_steps`."""
        assert isinstance(self.least, int)
        return self.least

    @property
    def longest(self) -> str:
        if self.steps_before > self.steps_between * (self.window + 1):
            return "least"
        return "window" if self.steps_between == 1 and self.window >= self.checks else super().longest

    def in_steps(self, count: Callable[[Amount], int]) -> Self:
        return super().in_steps(count).model_copy(update={"least": count(self.least)})


class CurveWatch(Watch):
    """Checks the curve once it has more than `window` points."""

    def __init__(self, rule: CurveRule, training: TrainingView):
        super().__init__(rule.key, rule.steps_between, rule.checks)
        self.rule = rule
        self.curve = LossCurve(rule.steps_between)
        self.warm_at = training.run.learning_rate.warm_at(training.stage.start)

    def see(self, training: TrainingView, step: StepView) -> None:
        if training.now > self.warm_at:
            super().see(training, step)
            self.curve.add(step.flops, step.loss)

    def check(self, training: TrainingView) -> Verdict:
        points, rule = self.curve.points, self.rule
        if len(points) <= rule.window:
            return Verdict.of(False)
        is_time = self.num_steps >= rule.steps_before
        is_low = rule.loss_below is None or points[-1].loss < rule.loss_below
        holds, numbers = self.judge(points)
        return Verdict.of(is_time and is_low and holds, loss=points[-1].loss, **numbers)

    @abstractmethod
    def judge(self, points: Sequence[Point]) -> tuple[bool, dict[str, float]]:
        """Whether the curve is a reason to end the stage, and the numbers behind the answer.

        `points` is the whole curve, more than `window` points.
        """

    def state(self) -> dict[str, Any]:
        return super().state() | {"curve": self.curve.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.curve.restore(state["curve"])


class Point(NamedTuple):
    """Means over consecutive steps."""

    flops: float
    """Since the start of the run."""
    loss: float


class LossCurve:
    """One point per `every` steps."""

    def __init__(self, every: int):
        self.every = every
        self.points: list[Point] = []
        self.sums, self.num_steps = Point(0.0, 0.0), 0

    def add(self, flops: float, loss: float) -> None:
        if not math.isfinite(loss):  # a step in which no token was masked says nothing
            return
        self.sums, self.num_steps = Point(self.sums.flops + flops, self.sums.loss + loss), self.num_steps + 1
        if self.num_steps == self.every:
            self.points.append(Point(*(total / self.every for total in self.sums)))
            self.sums, self.num_steps = Point(0.0, 0.0), 0

    def state(self) -> dict[str, Any]:
        return {"points": self.points, "sums": self.sums, "num_steps": self.num_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.points = [Point(*point) for point in state["points"]]
        self.sums, self.num_steps = Point(*state["sums"]), state["num_steps"]


def fall_per_efold(points: Sequence[Point], window: int) -> float:
    """Nats by which the loss now falls while the FLOPs grow by a factor of e.

    Fitted by a line through the last third of the points, and through at least `window` of them.
    """
    last = points[-max(window, len(points) // 3) :]
    return -slope([math.log(point.flops) for point in last], [point.loss for point in last])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the least-squares line through the points."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)
