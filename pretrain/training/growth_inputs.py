"""What operators ask for when they decide a change of shape: the same for a run in training and for the verb `grow`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from growth.learned_maps import LearnedMaps, Learning
from growth.moments import MomentRule
from growth.operators.base import Correlation, Inputs, no_rows
from growth.state import Fetch, TrainingState
from model.batch import Batch
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from model.parameters import parameter_table
from pretrain.engine.correlation import gradient_correlation
from pretrain.engine.spread import fetch_from

PROBE_ROWS = 64
"""Validation rows, at most, that losses around a change of shape and correlations are measured on."""


@dataclass(frozen=True)
class Probe:
    """What gradients are measured on."""

    rows: Sequence[Batch]
    """This rank's part of the rows."""
    layout: ParallelLayout
    dtype: torch.dtype


def growth_inputs(
    state: TrainingState,
    moments: MomentRule,
    open_probe: Callable[[], Probe],
    open_saved: Callable[[str], TrainingState],
    report: Callable[[Correlation], None],
    seed: int,
    learn: Callable[[LearnedMaps, Learning, Fetch], LearnedMaps] = no_rows,
) -> Inputs:
    """The inputs of a change that starts from `state`. Their calls are collective.

    `moments` is the optimizer's rule. `open_probe` and `open_saved` (a state by its name or path) are called only when
    an operator asks. `report` hears of every measured correlation. `seed` is the run's. `learn` takes steps on its
    rows.
    """

    def correlation(config: BertConfig, shared: BertConfig, fetch: Fetch) -> Correlation:
        if not any(state.steps.values()):
            return dict.fromkeys(parameter_table(shared), 1.0)  # all moments are zero: there is nothing to scale
        probe = open_probe()
        measured = gradient_correlation(config, fetch, probe.layout, probe.dtype, probe.rows, shared)
        report(measured)
        return measured

    def saved(name: str) -> tuple[BertConfig, Fetch]:
        opened = open_saved(name)
        return opened.config, fetch_from(opened)

    return Inputs(fetch_from(state), correlation, saved, moments, seed, learn)
