"""A run that nodes come to and go from: whatever the number of ranks, it is the same run."""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from pretrain.recipe import Recipe
from pretrain.training.train import train
from tests.support.launching import Launched
from tests.support.tiny import losses, metrics, same_bits, tiny_recipe, train_until, write_recipe
from tests.support.workers import pool

STAGES = [{"name": "tied", "steps": 4}, {"name": "deep", "steps": 4, "grow": "stack", "shape": {"layers": 4}}]
WITHOUT_DROPOUT = dict(
    layers=2, hidden=32, heads=4, ffn=64, max_positions=32, hidden_dropout=0.0, attention_dropout=0.0
)


def coming_and_going(corpus: Path, **changes) -> Recipe:
    return tiny_recipe(corpus, **{**CHANGES, **changes})


CHANGES = dict(
    stages=STAGES,
    batch={"global": 12, "micro": 2},
    validation={"rows": 17, "every": 4},
    faults={"min_nodes": 1},
)


def numbers(folder: Path) -> list[float]:
    return losses(folder) + [line["valid_loss"] for line in metrics(folder) if line.get("event") == "validation"]


def test_without_dropout_losses_do_not_depend_on_the_ranks(corpus, tmp_path):
    """Neither do those of validation, whose 17 rows two ranks cannot share out evenly."""
    recipe = coming_and_going(corpus, model=WITHOUT_DROPOUT)
    for ranks in (1, 2):
        pool(ranks).run(train, recipe, tmp_path / str(ranks))
    assert numbers(tmp_path / "2") == pytest.approx(numbers(tmp_path / "1"), rel=2e-5)
    assert json.loads((tmp_path / "2" / "summary.json").read_text())["validated_on"]["rows"] == 17


def said(recipe: Recipe, folder: Path, step: int) -> list[str]:
    """On every rank: what the run says on its way to a step."""
    lines: list[str] = []
    with patch("pretrain.training.train.say_once", lines.append):
        train_until(recipe, folder, step)
    return lines


def test_other_masks_are_said(corpus, tmp_path):
    recipe = coming_and_going(corpus)
    assert pool(2).run(said, recipe, tmp_path / "run", 2) == [[], []]
    (lines,) = pool(1).run(said, recipe, tmp_path / "run", 3)
    assert lines == ["step-00000002 is of 2 ranks, now there are 1: dropout draws other masks"]


def test_ranks_that_do_not_divide_stay_idle(corpus, tmp_path):
    """Three are started; the run is bit for bit that of two."""
    recipe = coming_and_going(corpus, batch={"global": 8})
    write_recipe(tmp_path / "tiny.yaml", corpus, **{**CHANGES, "batch": {"global": 8}})
    with Launched(tmp_path / "tiny.yaml", tmp_path / "runs", nproc=3, ESPALIER_PYTHON=sys.executable) as run:
        assert run.wait() == 0, run.text()
    assert run.text().count("batch.global 8 cannot be shared out evenly among 3 ranks: 2 train, idle: 1") == 1
    pool(2).run(train, recipe, tmp_path / "reference")
    assert same_bits(tmp_path / "runs" / "tiny", tmp_path / "reference")
