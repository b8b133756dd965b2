"""A run whose ranks clip their own gradients: resumed bit for bit, and by default on as many ranks alone."""

import shutil
from pathlib import Path

import pytest

from pretrain.recipe import Recipe
from pretrain.training.train import train
from tests.support.tiny import metrics, same_bits, stop_message, tiny_recipe, train_until
from tests.support.workers import pool

STAGES = [{"name": "tied", "steps": 4}, {"name": "deep", "steps": 4, "grow": "stack", "shape": {"layers": 4}}]
NORM = 0.5


def clipping(corpus: Path, **faults) -> Recipe:
    """Two micro-batches a step, dropout, and a change of shape."""
    optimizer = {"lr": 3e-3, "betas": [0.9, 0.98], "grad_clip": NORM, "clip_bucket_mb": 0.016}
    return tiny_recipe(corpus, stages=STAGES, optimizer=optimizer, deepspeed="ds_configs/zero2.json", faults=faults)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clipped") / "whole"
    pool(2).run(train, clipping(corpus), folder)
    return folder


def test_two_parts_are_the_whole(corpus, tmp_path, whole):
    pool(2).run(train_until, clipping(corpus), tmp_path / "parts", 3)
    pool(2).run(train_until, clipping(corpus), tmp_path / "parts", 6)
    pool(2).run(train, clipping(corpus), tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(whole)
    assert same_bits(tmp_path / "parts", whole)
    assert all(0 < line["grad_norm"] < NORM for line in metrics(whole) if "event" not in line)


def test_other_ranks_are_refused_unless_allowed(corpus, tmp_path):
    folder = tmp_path / "run"
    pool(2).run(train_until, clipping(corpus), folder, 2)
    before = metrics(folder)
    (message,) = pool(1).run(stop_message, train, clipping(corpus), folder)
    assert message == (
        "checkpoint step-00000002 is of 2 data-parallel ranks, now there are 1: each clips the gradient of its own "
        "rows (optimizer.clip_bucket_mb), so the run would become another; start as many ranks as "
        "before (2), or allow that by faults.any_ranks: true"
    )
    assert metrics(folder) == before
    shutil.copytree(folder, tmp_path / "same")
    pool(1).run(train, clipping(corpus, any_ranks=True), folder)
    assert (folder / "summary.json").is_file()
    pool(2).run(train_until, clipping(corpus), tmp_path / "same", 3)
