"""A state that a run kept for a later stage is damaged: it is made again from what the run has, bit for bit."""

import shutil
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.recipe import resolve
from pretrain.recipe.checks.saved_states import check_saved_states
from pretrain.training.train import train
from tests.support.tiny import losses, same_bits, stop_message, tiny_recipe, train_until
from tests.support.workers import pool

STAGES = [
    {"name": "begin", "steps": 4, "keep": "large"},
    {"name": "small", "steps": 4, "grow": "coalesce", "shape": {"layers": 1}},
    {
        "name": "large",
        "steps": 2,
        "grow": ["decoalesce", {"interpolate": {"checkpoint": "large"}}],
        "shape": {"layers": 2},
    },
]
MODEL = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)


@pytest.fixture(scope="module")
def recipe(corpus):
    checkpoint = {"every": 2, "keep_last": 10}
    return tiny_recipe(corpus, model=MODEL, stages=STAGES, checkpoint=checkpoint, validation={"rows": 8})


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    pool(1).run(train, recipe, folder)
    return folder


@pytest.fixture(scope="module")
def interrupted(recipe, tmp_path_factory) -> Path:
    """A run that has kept its state at step 4, and has not read it."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    pool(1).run(train_until, recipe, folder, 6)
    with (folder / "checkpoints" / "large" / "index.json").open("a") as index:
        index.write(" ")
    return folder


@pytest.mark.parametrize("lost", [[], ["step-00000004"], ["step-00000004", "large"]])
def test_it_is_made_again(recipe, whole, interrupted, tmp_path, lost):
    """From the checkpoint of its step, or by the steps that lead there."""
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    for name in lost:
        shutil.rmtree(folder / "checkpoints" / name)
    pool(1).run(train, recipe, folder)
    assert losses(folder) == losses(whole)
    assert same_bits(folder, whole)


def test_without_a_checkpoint_before_it_the_run_stops_in_one_line(recipe, interrupted, tmp_path):
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    for name in ("step-00000002", "step-00000004"):
        shutil.rmtree(folder / "checkpoints" / name)
    (message,) = pool(1).run(stop_message, train, recipe, folder)
    assert "saved at step 4 is damaged, and no checkpoint before that step is left; restore it in" in message
    assert (folder / "checkpoints" / "step-00000006").is_dir()


REWOUND = [
    {"name": "search", "steps": 4},
    {"name": "again", "steps": 2, "grow": {"rewind": {}}},
    {"name": "on", "steps": 2},
]


@pytest.fixture(scope="module")
def rewinding(corpus):
    return tiny_recipe(corpus, model=MODEL, stages=REWOUND, checkpoint={"every": 2, "keep_last": 10})


def test_the_first_weights_are_made_again(rewinding, tmp_path):
    """Before a later stage goes back to them; after that they are not looked at."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    pool(1).run(train, rewinding, whole)
    for step in (2, 6):
        pool(1).run(train_until, rewinding, folder, step)
        (folder / "checkpoints" / "initial" / "index.json").write_text("{")
    assert len(list((folder / "checkpoints").glob("step-*"))) == 3
    pool(1).run(train, rewinding, folder)
    assert losses(folder) == losses(whole)
    assert same_bits(folder, whole)
    assert (folder / "checkpoints" / "initial" / "index.json").read_text() == "{"
    part = "checkpoints/initial/rank-00000.safetensors"
    assert (folder / part).read_bytes() == (whole / part).read_bytes()


def test_a_checkpoint_that_is_to_stay_is_one_that_is_written(corpus):
    def check(every: int, keep_every: int) -> None:
        settings = {"every": every, "keep_every": keep_every}
        stages = [{"name": "first", "steps": 4}, {"name": "last", "steps": 6}]
        check_saved_states(resolve(tiny_recipe(corpus, checkpoint=settings, stages=stages), 131, 1))

    for every, keep_every in ((4, 0), (4, 8), (2, 3), (0, 4), (3, 5)):  # stages end at 4 and 10
        check(every, keep_every)
    for every, keep_every in ((0, 3), (4, 6)):
        with pytest.raises(UserError, match=f"keep_every {keep_every} keeps nothing: .*, now {every}, to {keep_every}"):
            check(every, keep_every)
