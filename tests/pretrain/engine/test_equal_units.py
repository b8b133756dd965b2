"""Units that are copies of one another are counted, however the engine's ranks hold them, and a run tells of them."""

from pathlib import Path
from unittest.mock import patch

import pytest

from pretrain.recipe import Recipe
from pretrain.training.hooks import equal_units
from pretrain.training.train import train
from tests.support.tiny import metrics, tiny_corpus, tiny_recipe
from tests.support.workers import pool

WIDE = {"hidden": 32, "heads": 4, "ffn": 64}
DRY = {"hidden_dropout": 0, "attention_dropout": 0}


def widening(corpus: Path, grow: object, **changes) -> Recipe:
    stages = [
        {"name": "narrow", "steps": 3, "shape": {"hidden": 16, "heads": 2, "ffn": 32}},
        {"name": "wide", "steps": 6, "grow": grow, "shape": WIDE},
    ]
    model = dict(layers=2, **WIDE, max_positions=32, **DRY)
    return tiny_recipe(corpus, model=model, stages=stages, validation={"rows": 8}, **changes)


def train_and_look_early(recipe: Recipe, folder: Path) -> None:
    with patch.object(equal_units, "STEPS", 5):
        train(recipe, folder)


def told(recipe: Recipe, folder: Path, num_ranks: int) -> list[dict]:
    pool(num_ranks).run(train_and_look_early, recipe, folder)
    return [line for line in metrics(folder) if line.get("event") == "equal_units"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus")).directory


@pytest.mark.parametrize(
    ("num_ranks", "changes"),
    [(2, {"layout": {"tensor_parallel": 2}}), (2, {"deepspeed": "ds_configs/zero3.json"})],
)
def test_copies_that_are_still_equal_are_told(corpus, tmp_path, num_ranks, changes):
    """Every unit of the wide model equals another, in both layers."""
    (event,) = told(widening(corpus, {"widen": {"noise": 0}}, **changes), tmp_path / "run", num_ranks)
    assert event["units"] == {"hidden": 32, "heads": 8, "ffn": 128}
    assert (event["step"], event["stage"]) == (8, "wide")
    assert "step 8: units still equal another after 5 steps of stage wide: 32 of hidden" in event["message"]


def test_noise_parts_them(corpus, tmp_path):
    assert told(widening(corpus, "widen"), tmp_path / "run", 1) == []
