"""Whole runs with LAMB and LANS: they grow, and one that was stopped ends in the same bits."""

from pathlib import Path

import pytest

from pretrain.train import train
from tests.little import little_corpus, little_recipe, losses, same_bits, train_until
from tests.workers import pool


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return little_corpus(tmp_path_factory.mktemp("little")).directory


@pytest.mark.parametrize(
    ("options", "tp", "zero"),
    [
        pytest.param({"name": "lamb", "prenormalize": "always"}, 2, 1, id="nvlamb-tp2-zero1"),
        pytest.param({"name": "lans"}, 1, 3, id="lans-zero3"),
    ],
)
def test_a_stopped_run_ends_in_the_same_bits(corpus, tmp_path, options, tp, zero):
    recipe = little_recipe(
        corpus,
        optimizer={"lr": 2e-2, "betas": [0.9, 0.98], **options},
        layout={"tensor_parallel": tp},
        deepspeed=f"ds_configs/zero{zero}.json",
        stages=[
            {"name": "tied", "steps": 8},
            {"name": "untied", "steps": 4, "grow": ["unshare", {"widen": {}}], "shape": {"ffn": 128}},
        ],
        validation={"rows": 8},
        batch={"global": 8},
    )
    pool(2).run(train, recipe, tmp_path / "whole")
    pool(2).run(train_until, recipe, tmp_path / "parts", 8)  # just before the change of shape
    pool(2).run(train, recipe, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same_bits(tmp_path / "parts", tmp_path / "whole")
