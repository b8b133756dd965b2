"""The picture of a run: loss against tokens, with every change of shape marked."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from pretrain.runs.history import History, Line

TRAINING, VALIDATION, GUIDE = "#2f6690", "#d1495b", "#8d8d8d"
STAGE_SHADES = ("#f4f4f0", "#ffffff")
SMOOTHING_SHARE = 0.01
"""Width of the running mean, as a share of the run's steps."""


def plot_loss(history: History, picture: Path, unigram_loss: float | None = None) -> None:
    """Draws a PNG, with the loss of a model that knows only how frequent tokens are as a guide."""
    figure, axes = plt.subplots(figsize=(8.5, 4.6), dpi=110, layout="constrained")
    try:
        _draw_loss(axes, history.steps)
        _draw_validation(axes, history.events("validation"))
        if unigram_loss is not None:
            axes.axhline(unigram_loss, color=GUIDE, linestyle=":", label=f"unigram predictor ({unigram_loss:.2f})")
        widest_end = _draw_stages(axes, history)
        axes.set(xlabel="tokens", ylabel="masked-token loss (nats)")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(widest_end, 0.98))
        figure.savefig(picture)
    finally:
        plt.close(figure)


def _draw_loss(axes: Axes, steps: list[Line]) -> None:
    """The running mean restarts at every change of shape, so that a jump there shows."""
    tokens = np.array([step["tokens"] for step in steps])
    loss = np.array([step["mlm_loss"] for step in steps])
    stages = np.array([step["stage"] for step in steps])
    axes.plot(tokens, loss, color=TRAINING, alpha=0.18, linewidth=0.7)
    width = max(1, round(len(steps) * SMOOTHING_SHARE))
    first = True
    for stage in dict.fromkeys(stages):
        here = stages == stage
        smooth = _running_mean(loss[here], width)
        axes.plot(tokens[here], smooth, color=TRAINING, linewidth=1.8, label="training" if first else None)
        first = False
    axes.set_xlim(0, tokens[-1])


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last `width` values, of fewer at the start."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    return (sums[last] - sums[first]) / (last - first)


def _draw_validation(axes: Axes, validations: list[Line]) -> None:
    tokens, losses = ([line[key] for line in validations] for key in ("tokens", "valid_loss"))
    axes.plot(tokens, losses, "o", color=VALIDATION, markersize=4.5, label="validation", clip_on=False, zorder=3)


def _draw_stages(axes: Axes, history: History) -> float:
    """Shades each stage under its name and shape, and marks each change of shape by a line with its operator.

    Returns where the widest stage ends, as a share of the axis: it has room for the legend.
    """
    shapes = {line["stage"]: line["shape"] for line in history.stages}
    operators = {line["stage"]: line["operator"] for line in history.events("growth")}
    last_tokens = {step["stage"]: step["tokens"] for step in history.steps}
    begin, whole = 0, history.steps[-1]["tokens"]
    widths = {}
    for index, (stage, end) in enumerate(last_tokens.items()):
        axes.axvspan(begin, end, color=STAGE_SHADES[index % 2], zorder=0)
        if stage in operators:
            axes.axvline(begin, color="black", linewidth=1, linestyle="--")
            axes.annotate(
                operators[stage],
                (begin, 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                style="italic",
            )
        label = f"{stage}\n{shapes.get(stage, '')}" if end - begin > whole / 4 else stage
        axes.annotate(
            label,
            ((begin + end) / 2, 1.01),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=8.5,
        )
        widths[end] = end - begin
        begin = end
    return max(widths, key=widths.__getitem__) / whole
