"""Evaluates a checkpoint on validation rows."""

from pathlib import Path

import torch
import torch.distributed as dist

from model.parallel.layout import ParallelLayout
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.engine.build import build_model
from pretrain.engine.exchange import fetch_from
from pretrain.training.evaluation import evaluate
from pretrain.training.events import Evaluation
from pretrain.use.trained import open_corpus, saved_rows


def evaluate_checkpoint(path: Path, corpus: str | None, num_rows: int) -> Evaluation:
    """Validation loss and accuracy of a checkpoint, in one process. `corpus` defaults to the one it was trained on."""
    tp = ParallelLayout(1, dist.get_world_size()).install()
    state, saved = load_checkpoint(find_checkpoint(path))
    opened = open_corpus(saved, corpus, path)
    model = build_model(state.config, tp, torch.float32)
    fetch = fetch_from(state)
    model.load_weights(lambda name: fetch(name).weight)
    return evaluate(model, saved_rows(saved, opened, num_rows))
