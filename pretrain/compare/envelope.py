"""The envelope: the best that any size reaches at each budget, from scratch.

That is the baseline a user really has, who is free to train another size than the target. A speedup over it is the
smallest of those over each size (`judge.over_best`).
"""

from collections.abc import Sequence

from pretrain.compare.roles import Contender
from pretrain.compare.speedup import Point, frontier, loss_at, median_point

SAME_BUDGET = 1.01
"""A factor in FLOPs: whole steps of different sizes are never equal."""


def curves_by_size(sizes: Sequence[Contender]) -> dict[str, list[Point]]:
    """FLOPs and loss (medians over seeds) of each budget, cheapest first, by the shape of the model."""
    curves: dict[str, list[Point]] = {}
    for contender in sizes:
        curves.setdefault(contender.runs[0].shape, []).append(median_point(contender, "flops"))
    return {shape: sorted(points) for shape, points in curves.items()}


def envelope(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The lowest loss of all sizes at each budget that one was trained at.

    Between its budgets a size is interpolated in the logarithm of FLOPs; beyond them nothing is invented.
    """
    costs = sorted({cost for points in curves for cost, _ in points})
    covering = {cost: [points for points in curves if _covers(points, cost)] for cost in costs}
    return frontier([(cost, min(loss_at(points, cost) for points in covering[cost])) for cost in costs])


def _covers(points: Sequence[Point], cost: float) -> bool:
    return points[0][0] <= cost * SAME_BUDGET and cost <= points[-1][0] * SAME_BUDGET
