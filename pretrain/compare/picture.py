"""Loss against cost, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from pretrain.compare.roles import Contender, Role
from pretrain.compare.runs import FinishedRun

COLOURS: dict[Role, str] = {"from scratch": "#8d8d8d", "method": "#2f6690", "small": "#d1495b"}


FEW = 8
"""Up to this many contenders are all labelled; beyond it, only those that no cheaper one of their role beats."""


def draw(contenders: Sequence[Contender], picture: Path) -> None:
    """Final loss against each currency, every run a point; below, the curve of each contender's first seed."""
    figure, rows = plt.subplots(2, 2, figsize=(11, 8), dpi=100, layout="constrained")
    for axes, currency in zip(rows[0], ("flops", "seconds"), strict=True):
        for contender in contenders:
            points = sorted((run.costs[currency], run.valid_loss) for run in contender.runs)
            axes.plot(*zip(*points, strict=True), "o", color=COLOURS[contender.role], alpha=0.8)
        for contender in contenders:
            place, rivals = _place(contender, currency), [c for c in contenders if c.role == contender.role]
            if len(contenders) <= FEW or not any(_beats(_place(rival, currency), place) for rival in rivals):
                axes.annotate(contender.name, place, xytext=(4, 4), textcoords="offset points", fontsize="xx-small")
        axes.set(xlabel=f"cost of the run ({currency})", ylabel="final validation loss", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for axes, currency in zip(rows[1], ("flops", "seconds"), strict=True):
        for contender in contenders:
            _draw_curve(axes, contender.runs[0], currency, COLOURS[contender.role])
        axes.set(xlabel=currency, ylabel="training loss (running mean)")
    roles = {contender.role: COLOURS[contender.role] for contender in contenders}
    handles = [Line2D([], [], marker="o", color=colour, label=role) for role, colour in roles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize="small")
    figure.savefig(picture)
    plt.close(figure)


def _place(contender: Contender, currency: str) -> tuple[float, float]:
    return median(run.costs[currency] for run in contender.runs), median(contender.losses)


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """At no greater cost, with a lower loss."""
    return one[0] <= other[0] and one[1] < other[1]


def _draw_curve(axes: Axes, run: FinishedRun, currency: str, colour: str) -> None:
    width = max(1, len(run.steps) // 50)
    chunks = [run.steps[first : first + width] for first in range(0, len(run.steps), width)]
    means = [fmean(step.mlm_loss for step in chunk) for chunk in chunks]
    axes.plot([getattr(chunk[-1], currency) for chunk in chunks], means, color=colour, linewidth=1)
    for event in run.growth:
        at = next((getattr(step, currency) for step in run.steps if step.step > event.step), None)
        if at is not None:
            axes.plot(at, event.loss_after, "v", color=colour, markersize=5)
