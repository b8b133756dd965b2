"""The run's clock: a budget in hours is kept by all ranks together, and skipped steps do not count."""

import itertools
import json
import math
from pathlib import Path
from unittest.mock import patch

import pytest

from pretrain.data import Corpus
from pretrain.engine.norm import gradient_norm_before_step
from pretrain.recipe import Recipe, resolve
from pretrain.training.train import train
from tests.support.corpora import made_up_documents, prepared
from tests.support.workers import pool

BUDGET_SECONDS = 2.0
TINY = {
    "name": "tiny",
    "model": {"layers": 2, "hidden": 32, "heads": 2, "ffn": 64, "sharing": 1, "max_positions": 32},
    "optimizer": {"lr": 1e-3},
    "sequence": 32,
    "batch": {"global": 8},
    "validation": {"rows": 8},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("clock"), made_up_documents(60))


def read_steps(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "event" not in line]


def test_stages_and_learning_rate_follow_the_clock_on_both_ranks(corpus, tmp_path):
    recipe = Recipe.model_validate(
        {
            **TINY,
            "data": {"corpus": str(corpus.directory)},
            "hours": BUDGET_SECONDS / 3600,
            "schedule": {"warmup": "10%"},
            "stages": [{"name": "tied", "hours": "40%"}, {"name": "untied", "grow": "unshare"}],
        }
    )
    pool(2).run(train, recipe, tmp_path / "run")  # ranks that disagree about a stage would hang in the move

    steps = read_steps(tmp_path / "run")
    rate = resolve(recipe, corpus.vocab_size, 2).learning_rate
    before = [0.0, *(line["seconds"] for line in steps)]
    assert [line["lr"] for line in steps] == pytest.approx([rate(seconds) for seconds in before[:-1]])
    assert before[-2] < BUDGET_SECONDS <= before[-1]
    first_untied = [line["stage"] for line in steps].index("untied")
    assert before[first_untied - 1] < 0.4 * BUDGET_SECONDS <= before[first_untied]
    assert all(earlier < later for earlier, later in itertools.pairwise(before))


def train_with_a_bad_gradient(recipe: Recipe, folder: Path) -> None:
    """Trains, and the third gradient is not finite."""
    calls = itertools.count(1)
    place = "pretrain.training.update.gradient_norm_before_step"
    with patch(place, lambda engine: math.nan if next(calls) == 3 else gradient_norm_before_step(engine)):
        train(recipe, folder)


def test_a_skipped_step_advances_the_data_and_not_the_schedule(corpus, tmp_path):
    recipe = Recipe.model_validate(
        {
            **TINY,
            "data": {"corpus": str(corpus.directory)},
            "schedule": {"warmup": 2},
            "stages": [{"name": "only", "steps": 6}],
        }
    )
    pool(1).run(train, recipe, tmp_path / "whole")
    pool(1).run(train_with_a_bad_gradient, recipe, tmp_path / "skipped")

    whole, skipped = read_steps(tmp_path / "whole"), read_steps(tmp_path / "skipped")
    assert [line["step"] for line in skipped] == [line["step"] for line in whole] == [1, 2, 3, 4, 5, 6]
    assert [line["lr"] for line in skipped] == [line["lr"] for line in whole]
    assert skipped[1]["tokens"] == whole[1]["tokens"]
    assert skipped[2]["tokens"] > whole[2]["tokens"]  # the third global batch was read and left out
