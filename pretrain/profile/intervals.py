"""Sets of moments: disjoint intervals in order, in microseconds."""

from collections.abc import Iterable, Sequence

Interval = tuple[float, float]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Of intervals that may overlap."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def intersection(ours: Sequence[Interval], theirs: Sequence[Interval]) -> list[Interval]:
    """Of two unions."""
    shared: list[Interval] = []
    left = right = 0
    while left < len(ours) and right < len(theirs):
        start, end = max(ours[left][0], theirs[right][0]), min(ours[left][1], theirs[right][1])
        if start < end:
            shared.append((start, end))
        if ours[left][1] < theirs[right][1]:
            left += 1
        else:
            right += 1
    return shared


def total(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)
