"""Evaluates a checkpoint on validation rows."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from rich import box
from rich.console import Console

from model.parallel.layout import ParallelLayout
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.data.objective import Objective
from pretrain.engine.build import build_model
from pretrain.engine.spread import fetch_from
from pretrain.settings.tables import WholeTable
from pretrain.training.evaluation import evaluate
from pretrain.training.events import Evaluation
from pretrain.use.trained import objective_of, open_corpus, saved_rows

USUAL_ROWS = 256
"""Of a checkpoint that no recipe has left, such as an imported one."""
PREDICTED = {"mlm": "masked tokens", "clm": "each next token"}
"""By objective."""


class Evaluated(NamedTuple):
    result: Evaluation
    num_rows: int
    objective: Objective
    """Of the checkpoint's stage: what the rows ask."""


def evaluate_checkpoint(path: Path, corpus: str | None, num_rows: int | None = None) -> Evaluated:
    """Validation loss and accuracy of a checkpoint, in one process.

    `corpus` defaults to the one it was trained on, `num_rows` to what its recipe validates on.
    """
    tp = ParallelLayout(1, dist.get_world_size()).install()
    state, saved = load_checkpoint(find_checkpoint(path))
    opened = open_corpus(saved, corpus, path)
    model = build_model(state.config, tp, torch.float32)
    fetch = fetch_from(state)
    model.load_weights(lambda name: fetch(name).weight)
    rows = num_rows or (saved["recipe"]["validation"]["rows"] if "recipe" in saved else USUAL_ROWS)
    return Evaluated(evaluate(model, saved_rows(saved, opened, rows)), rows, objective_of(saved))


def print_evaluation(path: Path, evaluated: Evaluated) -> None:
    table = WholeTable(box=box.SIMPLE_HEAD)
    for heading in ("rows", "loss (nats)", "accuracy"):
        table.add_column(heading, justify="right")
    result = evaluated.result
    table.add_row(f"{evaluated.num_rows:,}", f"{result.loss:.4f}", f"{result.accuracy:.1%}")
    console = Console(highlight=False)
    console.print(f"{path}: {PREDICTED[evaluated.objective]} of held-out text", soft_wrap=True)
    console.print(table)
