"""A whole run with an optimizer of another moment rule: it grows, and one that was stopped ends in the same bits."""

from pretrain.training.train import train
from tests.support.tiny import losses, same_bits, tiny_corpus, tiny_recipe, train_until
from tests.support.workers import pool


def test_a_stopped_run_ends_in_the_same_bits(tmp_path):
    """NVLAMB, whose rule reads the whole state over all ranks before a change of shape."""
    recipe = tiny_recipe(
        tiny_corpus(tmp_path).directory,
        optimizer={"name": "lamb", "prenormalize": "always", "lr": 2e-2},
        layout={"tensor_parallel": 2},
        stages=[
            {"name": "tied", "steps": 6},
            {"name": "untied", "steps": 3, "grow": ["unshare", {"widen": {}}], "shape": {"ffn": 128}},
        ],
        validation={"rows": 8},
        checkpoint={"every": 0},
    )
    pool(2).run(train, recipe, tmp_path / "whole")
    pool(2).run(train_until, recipe, tmp_path / "parts", 6)  # just before the change of shape
    pool(2).run(train, recipe, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same_bits(tmp_path / "parts", tmp_path / "whole")
