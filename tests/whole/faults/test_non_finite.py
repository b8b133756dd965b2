"""A gradient that is not finite never reaches the weights; its tensor is named; the run gets past it or stops."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from pretrain.recipe import Recipe
from pretrain.runs.history import History
from pretrain.training.train import train
from pretrain.training.trainer import Trainer
from pretrain.training.update import update
from tests.support.tiny import final_state, stop_message, tiny_recipe
from tests.support.workers import pool

STEPS = [{"name": "a", "steps": 12}]
POISONED = "blocks.1.feedforward.input"
MODEL = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)


@contextmanager
def poison(when) -> Iterator[None]:
    """On rank 1 the gradient that comes back to one layer is NaN whenever `when(trainer)` says so."""

    def poisoned(trainer: Trainer, *arguments):
        if dist.get_rank() != 1 or not when(trainer):
            return update(trainer, *arguments)
        layer = trainer.engine.module.get_submodule(POISONED)
        hook = layer.register_forward_hook(lambda layer, inputs, output: turn_bad(output))
        try:
            return update(trainer, *arguments)
        finally:
            hook.remove()

    with patch("pretrain.training.trainer.update", poisoned):
        yield


def turn_bad(output: torch.Tensor) -> None:
    if output.requires_grad:
        output.register_hook(lambda gradient: torch.full_like(gradient, math.nan))


def rows_read(trainer: Trainer) -> int:
    """Rows of the first epoch that the step at hand has read, its own included."""
    return sum(number for _, number in trainer.reader.position.taken)


def train_poisoned(recipe: Recipe, folder: Path, batches: range) -> None:
    """Every reading of one of these batches of 8 rows goes wrong, counted from 1."""
    with poison(lambda trainer: rows_read(trainer) // 8 in batches):
        train(recipe, folder)


def events(folder: Path, kind: str) -> list[dict]:
    return History.read(folder).events(kind)


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in History.read(folder).steps]


@pytest.mark.parametrize(("zero", "precision"), [(0, "fp32"), (1, "fp32"), (2, "bf16"), (3, "fp32")])
def test_a_bad_step_is_skipped_and_its_tensor_named(corpus, tmp_path, zero, precision):
    recipe = tiny_recipe(
        corpus, stages=STEPS, model=MODEL, precision=precision, deepspeed=f"ds_configs/zero{zero}.json"
    )
    pool(2).run(train_poisoned, recipe, tmp_path / "run", range(5, 6))
    (event,) = events(tmp_path / "run", "skipped")
    assert re.fullmatch(
        rf"step 5 skipped: the gradient of {POISONED}.(weight|bias) \(rank 1\) is not finite \(1 in a row\)",
        event["message"],
    )
    assert steps(tmp_path / "run") == list(range(1, 13))  # the step is taken with the next rows
    assert all(tensor.isfinite().all() for tensor in final_state(tmp_path / "run").values())


@pytest.mark.parametrize("changes", [{"recompute": True}, {"model": MODEL | {"frozen_layers": 1}}])
def test_a_bad_tensor_is_named_with_recomputed_and_with_frozen_layers(corpus, tmp_path, changes):
    short = {"stages": [{"name": "a", "steps": 3}], "schedule": {"warmup": 1}, "model": MODEL}
    recipe = tiny_recipe(corpus, **(short | changes))
    pool(2).run(train_poisoned, recipe, tmp_path / "run", range(2, 3))
    (event,) = events(tmp_path / "run", "skipped")
    assert f"step 2 skipped: the gradient of {POISONED}." in event["message"]
    assert steps(tmp_path / "run") == [1, 2, 3]


def test_after_several_in_a_row_the_run_rolls_back_and_skips_the_data(corpus, tmp_path):
    """Checkpoint at 4, batches 7 to 9 bad: back to step 4, and on with batch 10."""
    recipe = tiny_recipe(corpus, stages=STEPS, model=MODEL)
    pool(2).run(train_poisoned, recipe, tmp_path / "run", range(7, 10))
    assert steps(tmp_path / "run") == list(range(1, 13))
    assert events(tmp_path / "run", "skipped") == []  # dropped with the rest of what came after the checkpoint
    (event,) = events(tmp_path / "run", "rollback")
    assert event["step"] == 4
    assert re.fullmatch(
        rf"step 7: the gradient of {POISONED}.(weight|bias) \(rank 1\) is not finite: rolled back to step 4; "
        "the data read since then is skipped",
        event["message"],
    )
    assert event["message"] in (tmp_path / "run" / "report.html").read_text()
    saved = json.loads((tmp_path / "run/checkpoints/step-00000012/index.json").read_text())["run"]
    assert saved["progress"]["position"]["taken"] == [[32, 8 * (9 + 8)]]
    assert saved["hooks"]["non_finite"] == {"roll_backs": 1}


def test_a_second_rollback_to_the_same_checkpoint_keeps_the_event_of_the_first(corpus, tmp_path):
    """Batches 5 and 6 bad, back to step 4 and on with batch 7, which is bad too, as is 8; then it gets through."""
    recipe = tiny_recipe(corpus, stages=STEPS, model=MODEL, faults={"non_finite_steps": 2})
    pool(2).run(train_poisoned, recipe, tmp_path / "run", range(5, 9))
    assert steps(tmp_path / "run") == list(range(1, 13))
    assert [event["step"] for event in events(tmp_path / "run", "rollback")] == [4, 4]
    report = (tmp_path / "run" / "report.html").read_text()
    assert report.count('["rollback",4,') == 2


def test_after_several_rollbacks_the_run_stops_with_a_clear_line(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=STEPS, model=MODEL, faults={"non_finite_steps": 2, "roll_backs": 1})
    for message in pool(2).run(stop_message, train_poisoned, recipe, tmp_path / "run", range(3, 99)):
        assert f"the gradient of {POISONED}." in message
        assert "(rank 1) is not finite, after 1 rollbacks; lower optimizer.lr" in message
