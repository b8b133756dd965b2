"""Steps and validation rows in which no token is masked: their loss is undefined, and training continues."""

import json
import math
from pathlib import Path
from unittest.mock import patch

from pretrain.data import unigram_baseline
from pretrain.data.masking import mask_tokens
from pretrain.recipe import Recipe
from pretrain.runs.history import History
from pretrain.runs.plot import plot_loss
from pretrain.training.train import train
from tests.support.tiny import final_state, tiny_corpus, tiny_recipe
from tests.support.workers import pool


def mask_nothing(tokens, *arguments):
    _, chosen = mask_tokens(tokens, *arguments)
    return tokens, chosen[:0]


def train_without_masks(recipe: Recipe, folder: Path) -> None:
    with patch("pretrain.data.batches.mask_tokens", mask_nothing):
        train(recipe, folder)


def test_a_run_without_masked_tokens_ends_and_says_so(tmp_path):
    corpus = tiny_corpus(tmp_path)
    changes = {"schedule": {"warmup": 1}, "stages": [{"name": "a", "steps": 2}], "data": {"corpus": str(corpus.path)}}
    recipe = tiny_recipe(corpus.path, **changes)
    pool(1).run(train_without_masks, recipe, tmp_path / "run")
    history = History.read(tmp_path / "run")
    assert [math.isnan(step["loss"]) and math.isnan(step["mlm_accuracy"]) for step in history.steps] == [True, True]
    assert all(step["grad_norm"] == 0 for step in history.steps)
    assert [event["step"] for event in history.events("nothing_masked")] == [1, 2]
    assert math.isnan(json.loads((tmp_path / "run/summary.json").read_text())["valid_loss"])
    assert all(tensor.isfinite().all() for tensor in final_state(tmp_path / "run").values())
    with patch("pretrain.data.batches.mask_tokens", mask_nothing):
        assert all(map(math.isnan, unigram_baseline(corpus, 32, recipe.data.masking, 16)))
    plot_loss(history, tmp_path / "loss.png", math.nan)  # pools draw none
    assert (tmp_path / "loss.png").stat().st_size
