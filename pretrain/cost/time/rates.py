"""A rate between the points where it was measured."""

from collections.abc import Sequence
from math import exp, log, log2

Points = tuple[tuple[tuple[float, ...], float], ...]
"""Sizes, and the rate that was measured there."""


def interpolated(points: Points, sizes: Sequence[float]) -> float:
    """The mean of the rates' logarithms, weighted by the inverse square of the distance in powers of two (Shepard
    1968): between all rates, and at a point its own."""
    total = weights = 0.0
    for place, rate in points:
        distance = sum(log2(max(size, 1) / at) ** 2 for size, at in zip(sizes, place, strict=True))
        if distance < 1e-12:
            return rate
        weights += distance**-2
        total += distance**-2 * log(rate)
    return exp(total / weights)
