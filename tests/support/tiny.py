"""One tiny run for the tests of checkpoints and faults: a made-up corpus, three stages with two changes of shape."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml

from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.data import Corpus
from pretrain.engine import signals
from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode
from pretrain.recipe import Recipe
from pretrain.training.hooks.preemption import Preemption
from pretrain.training.train import train
from pretrain.training.trainer import Trainer
from tests.support.corpora import made_up_documents, prepared

STAGES = [
    {"name": "tied", "steps": 10},
    {"name": "untied", "steps": 10, "grow": "unshare"},
    {"name": "deep", "steps": 10, "grow": "stack", "shape": {"layers": 4}},
]
CLOCKED = ("seconds", "tokens_per_second", "parts")
"""What metrics say of time, which no two runs share."""


def tiny_corpus(directory: Path) -> Corpus:
    """An epoch of about 30 steps of the tiny run."""
    return prepared(directory, made_up_documents(40, longest=20))


def tiny_values(corpus: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": dict(layers=2, hidden=32, heads=4, ffn=64, sharing=1, max_positions=32),  # dropout 0.1, as in BERT
        "data": {"corpus": str(corpus)},
        "optimizer": {"lr": 3e-3, "betas": [0.9, 0.98]},
        "schedule": {"warmup": 4},
        "sequence": 32,
        "batch": {"global": 8, "micro": 2},
        "validation": {"rows": 16, "every": 5},
        "checkpoint": {"every": 4},
        "stages": STAGES,
    } | changes


def tiny_recipe(corpus: Path, **changes: Any) -> Recipe:
    return Recipe.model_validate(tiny_values(corpus, **changes))


def write_recipe(file: Path, corpus: Path, **changes: Any) -> Path:
    file.write_text(yaml.safe_dump(tiny_values(corpus, **changes)), "utf-8")
    return file


@contextmanager
def signal_at(step: int) -> Iterator[None]:
    """As if SIGUSR1 came to the last rank during this step."""

    def on_boundary(self: Preemption, trainer: Trainer) -> None:
        if trainer.progress.step == step:
            self.asking.steps_left = 1
            if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
                signals.received = "SIGUSR1"
        try:
            original(self, trainer)
        finally:
            signals.received = None

    original = Preemption.on_boundary
    with patch.object(Preemption, "on_boundary", on_boundary):
        yield


def train_until(recipe: Recipe, folder: Path, step: int) -> None:
    """On every rank: trains, and leaves at `step` as on a signal."""
    with signal_at(step), pytest.raises(Stop) as stopped:
        train(recipe, folder)
    assert stopped.value.code == ExitCode.PREEMPTED


def stop_message(function: Callable[..., None], *arguments: Any) -> str:
    """On every rank: the line that all ranks stop with."""
    with pytest.raises(Stop) as stopped:
        function(*arguments)
    return str(stopped.value)


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's latest checkpoint, and every parameter's step."""
    state, _ = load_checkpoint(find_checkpoint(folder))
    tensors = {f"{name}/step": torch.tensor(step) for name, step in state.steps.items()}
    for name, record in state.records.items():
        tensors |= {f"{name}/{kind}": tensor for kind, tensor in enumerate(record.tensors())}
    return tensors


def same_bits(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same weights, moments and steps."""
    ours, theirs = final_state(one), final_state(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What a run wrote down, without times, and without what depends on how often it was started."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [
        {key: value for key, value in line.items() if key not in CLOCKED}
        for line in lines
        if line.get("event") not in ("checkpoint", "memory", "start_up", "expected_step")
    ]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder) if "event" not in line]
