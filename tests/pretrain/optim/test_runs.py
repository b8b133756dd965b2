"""A whole run with an optimizer of another moment rule: it grows, and one that was stopped ends in the same bits."""

from pretrain.cost.optimizer_changes import optimizer_changes
from pretrain.recipe import resolve
from pretrain.training.train import train
from tests.support.tiny import losses, metrics, same_bits, tiny_corpus, tiny_recipe, train_until
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


def test_another_rate_alone_is_no_move(tmp_path):
    """The same as a factor of the schedule: bit for bit, in the same engine."""
    corpus, first = tiny_corpus(tmp_path).directory, {"name": "first", "steps": 4}
    adamw, recipes = {"name": "adamw", "betas": [0.9, 0.98]}, {}
    for name, change in (
        ("optimizer", {"optimizer": adamw | {"lr": 1e-3}}),
        ("scale", {"schedule": {"lr_scale": 0.25}}),
    ):
        stages = [first, {"name": "second", "steps": 4, **change}]
        schedule = {"shape": "constant", "warmup": 2}
        settings = {"optimizer": adamw | {"lr": 4e-3}, "schedule": schedule, "validation": {"rows": 8}}
        recipes[name] = tiny_recipe(corpus, stages=stages, **settings)
        pool(2).run(train, recipes[name], tmp_path / name)
    lines = metrics(tmp_path / "optimizer")
    assert not [line for line in lines if line.get("event") == "growth"]
    assert lines == metrics(tmp_path / "scale")
    assert same_bits(tmp_path / "optimizer", tmp_path / "scale")
    assert [line["lr"] for line in lines if "event" not in line][3:5] == [4e-3, 1e-3]
    assert not list(optimizer_changes(resolve(recipes["optimizer"], None, 1)))
