"""The envelope: the best that any size reaches at each budget, from scratch.

That is the baseline a user really has, who is free to train another size than the target. A speedup over it is the
smallest of those over each size (`judge.over_best`).
"""

from collections.abc import Sequence

from pretrain.compare.roles import Contender
from pretrain.compare.speedup import Point, frontier, loss_at, median_point


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
    lowest = [
        (cost, min(loss_at(points, cost) for points in curves if points[0][0] <= cost <= points[-1][0]))
        for cost in costs
    ]
    return frontier(lowest)
