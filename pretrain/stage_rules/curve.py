"""The training loss of a stage, thinned to means over equal numbers of steps, and the rules that look at it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pretrain.stage_rules.base import Rule, Verdict
from pretrain.stage_rules.settings import LossCurveRule
from pretrain.training.events import StepResult, TrainerView

if TYPE_CHECKING:
    from pretrain.recipe import ResolvedStage, Run


class Point(NamedTuple):
    """Means over some steps in a row."""

    flops: float
    """Of the run so far."""
    loss: float


class LossCurve:
    """One point for every `every` steps."""

    def __init__(self, every: int):
        self.every = every
        self.points: list[Point] = []
        self.sums, self.num_steps = Point(0.0, 0.0), 0

    def add(self, flops: float, loss: float) -> None:
        self.sums, self.num_steps = Point(self.sums.flops + flops, self.sums.loss + loss), self.num_steps + 1
        if self.num_steps == self.every:
            self.points.append(Point(*(total / self.every for total in self.sums)))
            self.sums, self.num_steps = Point(0.0, 0.0), 0

    def state(self) -> dict[str, Any]:
        return {"points": self.points, "sums": self.sums, "num_steps": self.num_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.points = [Point(*point) for point in state["points"]]
        self.sums, self.num_steps = Point(*state["sums"]), state["num_steps"]


class CurveRule(Rule):
    """Looks at the curve after the (re-)warm-up, whenever it has one more point and enough of them."""

    def __init__(self, name: str, settings: LossCurveRule, run: Run, stage: ResolvedStage):
        super().__init__(name, settings.every, settings.checks)
        self.settings = settings
        self.curve = LossCurve(settings.every)
        self.warm_at = run.learning_rate.warm_at(stage.start)

    def see(self, trainer: TrainerView, result: StepResult) -> None:
        if trainer.now > self.warm_at:
            super().see(trainer, result)
            self.curve.add(result.flops, result.loss)

    def check(self, trainer: TrainerView) -> Verdict:
        points, settings = self.curve.points, self.settings
        if len(points) <= settings.window:
            return Verdict.of(False)
        is_time = self.num_steps >= settings.least
        is_low = settings.loss_below is None or points[-1].loss < settings.loss_below
        holds, numbers = self.judge(points)
        return Verdict.of(is_time and is_low and holds, loss=points[-1].loss, **numbers)

    @abstractmethod
    def judge(self, points: Sequence[Point]) -> tuple[bool, dict[str, float]]:
        """Whether the curve is a reason to end the stage, and the numbers that say so. `points`: the whole of it, more
        than `window`."""

    def state(self) -> dict[str, Any]:
        return super().state() | {"curve": self.curve.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.curve.restore(state["curve"])


def fall_per_efold(points: Sequence[Point], window: int) -> float:
    """Nats that the loss falls now while the FLOPs grow by a factor of e: by a line through the last third of the
    points, and at least through `window` of them."""
    last = points[-max(window, len(points) // 3) :]
    return -slope([math.log(point.flops) for point in last], [point.loss for point in last])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through the points, by least squares."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)
