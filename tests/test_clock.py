"""A run with a budget in hours: ranks change stage together, and the learning rate follows the seconds trained."""

import itertools
import json

import pytest

from pretrain.recipe import Recipe, resolve
from pretrain.train import train
from tests.data.conftest import made_up_documents, prepared
from tests.workers import pool

BUDGET_SECONDS = 2.0


def test_stages_and_learning_rate_follow_the_clock_on_both_ranks(tmp_path):
    corpus = prepared(tmp_path, made_up_documents(60))
    recipe = Recipe.model_validate(
        {
            "name": "timed",
            "hours": BUDGET_SECONDS / 3600,
            "model": {"layers": 2, "hidden": 32, "heads": 2, "ffn": 64, "sharing": 1, "max_positions": 32},
            "data": {"corpus": str(corpus.directory)},
            "optimizer": {"lr": 1e-3},
            "schedule": {"warmup": "10%"},
            "sequence": 32,
            "batch": {"global": 8},
            "validation": {"rows": 8},
            "stages": [{"name": "tied", "hours": "40%"}, {"name": "untied", "grow": "unshare"}],
        }
    )
    pool(2).run(train, recipe, tmp_path / "run")  # ranks that disagree about a stage would hang in the move

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "event" not in line]
    rate = resolve(recipe, corpus.vocab_size, 2).learning_rate
    before = [0.0, *(line["seconds"] for line in steps)]
    assert [line["lr"] for line in steps] == pytest.approx([rate(seconds) for seconds in before[:-1]])
    assert before[-2] < BUDGET_SECONDS <= before[-1]
    first_untied = [line["stage"] for line in steps].index("untied")
    assert before[first_untied - 1] < 0.4 * BUDGET_SECONDS <= before[first_untied]
    assert all(earlier < later for earlier, later in itertools.pairwise(before))
