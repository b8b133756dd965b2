"""The scaling view: what each method saves at its budget, over the best of all sizes. Drawn in black and white."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from pretrain.compare.envelope import curves_by_size, envelope
from pretrain.compare.judge import Line
from pretrain.compare.picture import mark_costs, save

MARKERS = "osD^vPX"
DASHES = ("--", ":", "-.")
SIZE: dict[str, Any] = {"color": "#666666", "markerfacecolor": "white"}
METHOD: dict[str, Any] = {"color": "black"}
TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 3, 5, 10, 20)
Look = dict[str, Any]
Range = tuple[float, float, float]
"""The lowest, what counts, and the highest."""


def draw_scaling(lines: Sequence[Line], out: Path) -> None:
    """Writes scaling.png, scaling.svg and scaling.pdf into `out`.

    On the left, final loss against FLOPs: sizes from scratch hollow, methods full, and the envelope. On the right, the
    speedup over the envelope, and where that breaks even. Bars are the range of the seeds, arrows are bounds.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), dpi=150, layout="constrained")
    looks = looks_of(lines)
    _draw_losses(left, lines, looks)
    _draw_speedups(right, lines, looks)
    for axes in (left, right):
        mark_costs(axes, [_flops(line) for line in lines])
        axes.set_xlabel("FLOPs of the run")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(len(labels), 5), fontsize="small", frameon=False
    )
    save(figure, out, "scaling")
    plt.close(figure)


def looks_of(lines: Iterable[Line]) -> dict[str, Look]:
    """Marker and dash by the name in the legend, no two of which are alike for as long as there are markers."""
    looks: dict[str, Look] = {}
    of_sizes, of_methods, dashes = cycle(MARKERS), cycle(MARKERS), cycle(DASHES)
    for line in lines:
        name = _name(line)
        if name not in looks and line.is_size:
            looks[name] = SIZE | {"marker": next(of_sizes), "linestyle": next(dashes)}
        elif name not in looks:
            looks[name] = METHOD | {"marker": next(of_methods), "linestyle": "none"}
    return looks


def _draw_losses(axes: Axes, lines: Sequence[Line], looks: dict[str, Look]) -> None:
    for name, found in _by_name(lines).items():
        losses = [(min(losses), median(losses), max(losses)) for line in found if (losses := line.contender.losses)]
        _points(axes, [_flops(line) for line in found], losses, looks[name], name)
    curves = curves_by_size([line.contender for line in lines if line.is_size])
    best = envelope(list(curves.values()))
    axes.plot(*zip(*best, strict=True), color="black", linewidth=2.5, zorder=1, label="envelope: the best of all sizes")
    axes.set_ylabel("final validation loss (nats)")


def _draw_speedups(axes: Axes, lines: Sequence[Line], looks: dict[str, Look]) -> None:
    axes.axhline(1, color="black", linewidth=2.5, zorder=1)
    place = axes.get_yaxis_transform()
    axes.annotate("breaks even", (1.01, 1), xycoords=place, va="center", fontsize="small", annotation_clip=False)
    for name, found in _by_name(lines).items():
        _points(axes, [_flops(line) for line in found], [_speedups(line) for line in found], looks[name], name)
    for line in lines:
        reading = line.over_envelope.reading
        if reading.bound:
            tip, arrow = (0, 18 if reading.bound == ">=" else -18), {"arrowstyle": "<-", "color": "black"}
            axes.annotate("", (_flops(line), reading.factor), tip, textcoords="offset points", arrowprops=arrow)
    axes.set(ylabel="speedup in FLOPs over the envelope", yscale="log")
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.yaxis.set_minor_formatter(NullFormatter())
    shown = [factor for line in lines for factor in (1.0, *_speedups(line))]
    axes.set_ylim(min(shown) / 1.2, max(shown) * 1.2)


def _speedups(line: Line) -> Range:
    """A size is measured against itself, too: pairings of its own seeds say nothing."""
    found = line.over_envelope
    factor = found.reading.factor
    return (factor, factor, factor) if line.is_size else (found.low, factor, found.high)


def _points(axes: Axes, costs: Sequence[float], ranges: Sequence[Range], look: Look, name: str) -> None:
    middles = [middle for _, middle, _ in ranges]
    below = [max(0.0, middle - low) for low, middle, _ in ranges]
    above = [max(0.0, high - middle) for _, middle, high in ranges]
    axes.errorbar(costs, middles, yerr=[below, above], capsize=3, markersize=6, linewidth=1, label=name, **look)


def _by_name(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The cheapest first."""
    found: dict[str, list[Line]] = {}
    for line in sorted(lines, key=_flops):
        found.setdefault(_name(line), []).append(line)
    return found


def _name(line: Line) -> str:
    """Sizes go by their shape, whatever they are called."""
    first = line.contender.runs[0]
    return first.shape.partition(",")[0] if line.is_size else first.name


def _flops(line: Line) -> float:
    return median(run.costs["flops"] for run in line.contender.runs)
