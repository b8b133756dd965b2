"""The picture of `plan --sweep nodes=...`: how much faster more nodes are, and where that stops to pay."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter, PercentFormatter

from pretrain.cost.time.sweep import Choice
from pretrain.runs.plot import GUIDE, TRAINING, VALIDATION


def plot_scaling(choices: Sequence[Choice], title: str, picture: Path) -> None:
    """Hours against ranks, with an even division of the work as a guide; below, the share of that which is reached, and
    of a step's time the messages that nothing hides. The format is that of the file's name."""
    times = sorted((choice.time for choice in choices), key=lambda time: time.run.num_ranks)
    first, last_steps = times[0], [time.stages[-1].step for time in times]
    ranks = [time.run.num_ranks for time in times]
    hours = [time.seconds / 3600 for time in times]
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 6), dpi=110, layout="constrained", sharex=True)
    try:
        even = [hours[0] * ranks[0] / number for number in ranks]
        above.plot(ranks, even, linestyle=":", color=GUIDE, label="divided evenly")
        above.plot(ranks, hours, "o-", color=TRAINING, label="predicted")
        above.set(xscale="log", yscale="log", ylabel="hours of the run", title=title)
        below.plot(ranks, [first.rank_hours / time.rank_hours for time in times], "o-", color=TRAINING, label="scaling")
        exposed = [step.communication / step.seconds for step in last_steps]
        below.plot(ranks, exposed, "s--", color=VALIDATION, label="exposed messages")
        below.set(xlabel="processes" if first.machine.on_cpu else "GPUs", ylim=(0, 1.05))
        below.yaxis.set_major_formatter(PercentFormatter(1))
        below.set_xticks(ranks, [f"{number:,}" for number in ranks])
        below.xaxis.set_minor_formatter(NullFormatter())
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False)
        figure.savefig(picture)
    finally:
        plt.close(figure)
