"""Runs of the check: their recipe, and how a rank trains it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from pretrain.engine.distributed import computes_on_gpu, device
from pretrain.recipe import Recipe
from pretrain.training.train import train
from tests.gpu.fake.arithmetic import arithmetic

NUM_STEPS = 4


def recipe(corpus: Path, **changes: Any) -> dict[str, Any]:
    """Two steps, growth in depth and width, two more; a checkpoint at every step. No dropout, whose masks differ."""
    stages = [
        {"name": "small", "steps": 2},
        {"name": "large", "steps": 2, "shape": {"layers": 2, "ffn": 48}, "grow": ["stack", "widen"]},
    ]
    for stage, of_stage in zip(stages, changes.pop("stages", []), strict=False):
        stage |= of_stage
    return {
        "name": "fake-gpu",
        "model": dict(layers=1, hidden=16, heads=2, ffn=32, max_positions=32, hidden_dropout=0, attention_dropout=0),
        "data": {"corpus": str(corpus), "sentence_pairs": "nsp"},
        "optimizer": {"lr": 1e-3},
        "sequence": 32,
        "batch": {"global": 4, "micro": 2},
        "validation": {"rows": 4},
        "checkpoint": {"every": 1, "keep_last": NUM_STEPS},
        "compile": False,
        "stages": stages,
    } | changes


def train_there(values: dict[str, Any], folder: str) -> str:
    """On every rank: trains the recipe, from the newest checkpoint in `folder`, and tells the device."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # attention.py knows torch's other kernels
    with arithmetic() if computes_on_gpu() else nullcontext():
        train(Recipe.model_validate(values), Path(folder))
    return str(device())
