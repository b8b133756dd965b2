"""Speedup: what the from-scratch run that reaches the same loss would cost, over what the method cost.

From-scratch runs at several budgets, each decayed to its own end, give a curve of loss against cost; between two of
them loss is interpolated in the logarithm of cost, beyond them nothing is invented: the answer is a bound.
(Kaddour et al. 2023, arXiv 2307.06440, on why the baseline needs its own full decay.)

The verdict is that of the medians, and has to exceed the range of the seeds. Paired readings are listed next to it: a
seed gives the method and the baseline the same data, and the same weights as far as the shapes agree, so that luck that
they share cancels.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from pretrain.compare.roles import Contender

Verdict = Literal["significant", "significantly worse", "not significant"]
Point = tuple[float, float]
"""Cost and final validation loss of one budget."""


@dataclass(frozen=True)
class Reading:
    """A factor read off the baseline's curve."""

    factor: float
    bound: str = ""
    """`>=`: better than every from-scratch run; `<=`: worse than every one."""

    @property
    def is_open(self) -> bool:
        """At most a factor above 1, or at least one below it: better and worse are both possible."""
        return (self.bound == "<=" and self.factor > 1) or (self.bound == ">=" and self.factor < 1)

    def __str__(self) -> str:
        return f"{self.bound}{self.factor:.2f}"


@dataclass(frozen=True)
class Paired:
    """Every run of a method over the from-scratch curve of the same seed."""

    readings: dict[int, Reading]
    """By seed."""

    @property
    def factors(self) -> list[float]:
        return [reading.factor for reading in self.readings.values()]

    @property
    def significant(self) -> bool:
        """Three seeds or more, and a gain with every one. (By luck alone three agree one time in eight.)"""
        gains = [reading.factor > 1 and reading.bound != "<=" for reading in self.readings.values()]
        return len(gains) >= 3 and all(gains)


@dataclass(frozen=True)
class Speedup:
    """Of one method in one currency, over its seeds."""

    reading: Reading
    low: float
    high: float
    gap: float
    """By how much loss is below the baseline's at equal cost; 0 where that is within the range of either's seeds."""
    paired: Paired
    """Empty if the two have no seed in common."""

    @property
    def verdict(self) -> Verdict:
        if not self.gap or self.reading.is_open:
            return "not significant"
        return "significant" if self.gap > 0 else "significantly worse"


def speedup(method: Contender, baseline: Sequence[Contender], cost: str) -> Speedup:
    """Against the baseline's median curve; low and high over every pairing of a seed here with a seed's curve there."""
    curve = [median_point(budget, cost) for budget in baseline]
    own_cost = median(run.costs[cost] for run in method.runs)
    reading = read_off(curve, median(method.losses), own_cost)
    seeds = sorted({run.seed for budget in baseline for run in budget.runs})
    curves = [_seed_curve(baseline, seed, cost) for seed in seeds]
    readings = [
        read_off(points, run.valid_loss, run.costs[cost]).factor for points in curves if points for run in method.runs
    ]
    gap = loss_at(curve, own_cost) - median(method.losses)
    noise = max(_range(method.losses), *(_range(budget.losses) for budget in baseline))
    enough = len(method.runs) > 1 and all(len(budget.runs) > 1 for budget in baseline)
    clear_gap = gap if enough and abs(gap) > noise else 0.0
    return Speedup(reading, min(readings), max(readings), clear_gap, paired(method, baseline, cost))


def paired(method: Contender, baseline: Sequence[Contender], cost: str) -> Paired:
    """Each run of the method against the curve of the from-scratch runs with its seed, where there are any."""
    curves = ((run, _seed_curve(baseline, run.seed, cost)) for run in method.runs)
    return Paired({run.seed: read_off(curve, run.valid_loss, run.costs[cost]) for run, curve in curves if curve})


def read_off(curve: Sequence[Point], loss: float, cost: float) -> Reading:
    """cost of the from-scratch run that ends at `loss`, over `cost`."""
    points = frontier(curve)
    if loss <= points[-1][1]:
        return Reading(points[-1][0] / cost, ">=" if loss < points[-1][1] else "")
    if loss >= points[0][1]:
        return Reading(points[0][0] / cost, "<=" if loss > points[0][1] else "")
    for (cheap, high), (dear, low) in itertools.pairwise(points):
        if low <= loss <= high:
            share = (high - loss) / (high - low)
            return Reading(cheap ** (1 - share) * dear**share / cost)
    raise AssertionError("the frontier has no gap")


def loss_at(curve: Sequence[Point], cost: float) -> float:
    """The baseline's loss at a cost, interpolated in log cost; the nearest budget's beyond the ends."""
    points = frontier(curve)
    if cost <= points[0][0]:
        return points[0][1]
    for (cheap, high), (dear, low) in itertools.pairwise(points):
        if cheap <= cost <= dear:
            share = math.log(cost / cheap) / math.log(dear / cheap)
            return high + share * (low - high)
    return points[-1][1]


def frontier(curve: Sequence[Point]) -> list[Point]:
    """By cost, without budgets that a cheaper one beats (noise)."""
    points: list[Point] = []
    for cost, loss in sorted(curve):
        if not points or loss < points[-1][1]:
            points.append((cost, loss))
    return points


def median_point(budget: Contender, cost: str) -> Point:
    """Of its seeds."""
    return median(run.costs[cost] for run in budget.runs), median(budget.losses)


def _seed_curve(baseline: Sequence[Contender], seed: int, cost: str) -> list[Point]:
    return [(run.costs[cost], run.valid_loss) for budget in baseline for run in budget.runs if run.seed == seed]


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values)
