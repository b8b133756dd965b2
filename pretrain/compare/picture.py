"""Loss against cost, as a picture to print: one colour for each recipe, the baseline as a curve."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pretrain.compare.roles import Contender, Role
from pretrain.compare.runs import FinishedRun
from pretrain.compare.speedup import frontier

BASELINE = "#222222"
COLOURS = ("#2f6690", "#d1495b", "#3a9d5d", "#e8871e", "#7b4fa3", "#12908e", "#9c6b30", "#c2569b", "#6f7d8c", "#a2a52a")
DASHES = ("-", "--", ":")
"""Recipes beyond the number of colours have the same in another dash."""
MARKERS: dict[Role, str] = {"from scratch": "o", "method": "D", "small": "s"}
CURRENCIES = {"flops": "FLOPs", "seconds": "seconds"}
FORMATS = ("png", "svg", "pdf")
NUM_POINTS = 50
"""Of a training curve: each is the mean of the steps since the point before."""
PAUSE = 5.0
"""A point that comes this many times later than usual is behind a pause of the machine; no line leads there."""
Look = dict[str, str]


def draw(contenders: Sequence[Contender], out: Path) -> None:
    """Writes compare.png, compare.svg and compare.pdf into `out`.

    Above, final loss against each currency: the median of the seeds, with bars over their range. Below, the training
    curve of each contender's first seed.
    """
    figure, rows = plt.subplots(2, 2, figsize=(11, 8), dpi=150, layout="constrained", sharey="row")
    looks = looks_of(contenders)
    for axes, currency in zip(rows[0], CURRENCIES, strict=True):
        _draw_final_losses(axes, contenders, looks, currency)
    for axes, currency in zip(rows[1], CURRENCIES, strict=True):
        _draw_curves(axes, contenders, looks, currency)
    rows[0][0].set_ylabel("final validation loss (nats)")
    rows[1][0].set_ylabel("training loss (nats)")
    for axes in rows.flat:
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(len(labels), 5), fontsize="small", frameon=False
    )
    save(figure, out, "compare")
    plt.close(figure)


def save(figure: Figure, out: Path, name: str) -> None:
    """As .png, .svg and .pdf, the same bytes each time."""
    figure.draw_without_rendering()  # lays it out, once for all formats
    figure.set_layout_engine("none")
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "compare"}):
        for kind in FORMATS:
            undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
            figure.savefig(out / f"{name}.{kind}", metadata=undated)


def looks_of(contenders: Sequence[Contender]) -> dict[str, Look]:
    """Colour and dash of each recipe. What it is measured against is black."""
    looks: dict[str, Look] = {}
    for contender in contenders:
        name, number = contender.runs[0].name, sum(look["color"] != BASELINE for look in looks.values())
        if name not in looks and contender.role == "from scratch":
            looks[name] = {"color": BASELINE, "linestyle": "-"}
        elif name not in looks:
            turn, colour = divmod(number, len(COLOURS))
            looks[name] = {"color": COLOURS[colour], "linestyle": DASHES[turn % len(DASHES)]}
    return looks


def _draw_final_losses(axes: Axes, contenders: Sequence[Contender], looks: dict[str, Look], currency: str) -> None:
    named = set()
    for contender in contenders:
        name, cost, losses = contender.runs[0].name, _cost(contender, currency), contender.losses
        middle = median(losses)
        axes.errorbar(
            cost,
            middle,
            yerr=[[middle - min(losses)], [max(losses) - middle]],
            fmt=MARKERS[contender.role],
            color=looks[name]["color"],
            capsize=3,
            markersize=5,
            label=None if name in named else f"{name} ({contender.role})",
        )
        named.add(name)
    scratch = [(_cost(each, currency), median(each.losses)) for each in contenders if each.role == "from scratch"]
    axes.plot(*zip(*frontier(scratch), strict=True), color=BASELINE, linewidth=1, zorder=1)
    axes.set(xlabel=f"cost of the run ({CURRENCIES[currency]})")
    mark_costs(axes, [_cost(contender, currency) for contender in contenders])


def mark_costs(axes: Axes, costs: Sequence[float]) -> None:
    """A logarithmic axis with as many figures as these costs need."""
    axes.set_xscale("log")
    is_narrow = max(costs) < 10 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if is_narrow else (1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_curves(axes: Axes, contenders: Sequence[Contender], looks: dict[str, Look], currency: str) -> None:
    ends = []
    for contender in contenders:
        run = contender.runs[0]
        points = curve(run, currency)
        axes.plot(*zip(*points, strict=True), linewidth=1.2, **looks[run.name])  # type: ignore[arg-type]
        for event in run.growth:
            at = next((getattr(step, currency) for step in run.steps if step.step > event.step), None)
            if at is not None:
                axes.plot(at, event.loss_after, "v", color=looks[run.name]["color"], markersize=5)
        ends.append((*points[-1], contender))
    axes.set(xlabel=CURRENCIES[currency], xlim=(0, None))
    _name_ends(axes, ends, looks)


def curve(run: FinishedRun, currency: str) -> list[tuple[float, float]]:
    """Cost and mean loss, with a gap where the machine has paused."""
    width = max(1, len(run.steps) // NUM_POINTS)
    chunks = [run.steps[first : first + width] for first in range(0, len(run.steps), width)]
    points = [(getattr(chunk[-1], currency), fmean(step.mlm_loss for step in chunk)) for chunk in chunks]
    usual = median(after[0] - before[0] for before, after in pairwise(points)) if points[1:] else 0
    whole = points[:1]
    for before, after in pairwise(points):
        if after[0] - before[0] > PAUSE * usual:
            whole.append((after[0], math.nan))
        whole.append(after)
    return whole


def _name_ends(axes: Axes, ends: Sequence[tuple[float, float, Contender]], looks: dict[str, Look]) -> None:
    """Each contender's name right of its curve; names that would overlap are moved apart."""
    low, high = axes.get_ylim()
    places = spread([loss for _, loss, _ in ends], gap=(high - low) / 22)
    for (cost, loss, contender), place in zip(ends, places, strict=True):
        axes.annotate(
            contender.name,
            (cost, loss),
            (1.01, place),
            textcoords=axes.get_yaxis_transform(),
            color=looks[contender.runs[0].name]["color"],
            fontsize="x-small",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#cccccc", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
        )
    axes.set_ylim(min([low, *places]), max([high, *places]))


def spread(values: Sequence[float], gap: float) -> list[float]:
    """The values moved up and down as little as puts at least `gap` between any two, in the same order."""
    order = sorted(range(len(values)), key=values.__getitem__)
    groups: list[list[float]] = []  # of neighbours that touch: their values, lowest first
    for index in order:
        groups.append([values[index]])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap):
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = [_bottom(group, gap) + gap * number for group in groups for number in range(len(group))]
    return [place for _, place in sorted(zip(order, placed, strict=True))]


def _bottom(group: Sequence[float], gap: float) -> float:
    return fmean(group) - gap * (len(group) - 1) / 2


def _top(group: Sequence[float], gap: float) -> float:
    return fmean(group) + gap * (len(group) - 1) / 2


def _cost(contender: Contender, currency: str) -> float:
    return median(run.costs[currency] for run in contender.runs)
