"""Loss against cost, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from pretrain.compare.roles import Contender, Role
from pretrain.compare.runs import FinishedRun

COLOURS: dict[Role, str] = {"from scratch": "#8d8d8d", "method": "#2f6690", "small": "#d1495b"}


def draw(contenders: Sequence[Contender], picture: Path) -> None:
    """Final loss against each currency, every run a point; below, the curve of every run."""
    figure, rows = plt.subplots(2, 2, figsize=(11, 8), dpi=100, layout="constrained")
    for axes, currency in zip(rows[0], ("flops", "seconds"), strict=True):
        for contender in contenders:
            points = sorted((run.costs[currency], run.valid_loss) for run in contender.runs)
            axes.plot(*zip(*points, strict=True), "o", color=COLOURS[contender.role], label=contender.name)
        axes.set(xlabel=f"cost of the run ({currency})", ylabel="final validation loss", xscale="log")
    rows[0][0].legend(fontsize="small")
    for axes, currency in zip(rows[1], ("flops", "seconds"), strict=True):
        for contender in contenders:
            for run in contender.runs:
                _draw_curve(axes, run, currency, COLOURS[contender.role])
        axes.set(xlabel=currency, ylabel="training loss (running mean)")
    figure.savefig(picture)
    plt.close(figure)


def _draw_curve(axes: Axes, run: FinishedRun, currency: str, colour: str) -> None:
    width = max(1, len(run.steps) // 50)
    chunks = [run.steps[first : first + width] for first in range(0, len(run.steps), width)]
    means = [fmean(step.mlm_loss for step in chunk) for chunk in chunks]
    axes.plot([getattr(chunk[-1], currency) for chunk in chunks], means, color=colour, linewidth=1)
    for event in run.growth:
        at = next((getattr(step, currency) for step in run.steps if step.step > event.step), None)
        if at is not None:
            axes.plot(at, event.loss_after, "v", color=colour, markersize=5)
