"""A run that learns the maps of its change of shape: it resumes to the same bits, and its cost counts."""

from itertools import count, pairwise
from pathlib import Path
from unittest.mock import patch

import pytest

from growth.learned_maps import map_flops
from model.errors import UserError
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.cost.learning import learning_flops
from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode
from pretrain.recipe import resolve
from pretrain.training.train import train
from tests.support.tiny import losses, metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool

STEPS = 3
STAGES = [
    {"name": "small", "steps": 4, "shape": {"layers": 1, "hidden": 16, "heads": 2, "ffn": 32}},
    {
        "name": "large",
        "steps": 3,
        "grow": {"ligo": {"steps": STEPS, "lr": 0.02}},
        "shape": {"layers": 2, "hidden": 32, "heads": 4, "ffn": 64},
    },
]
MODEL = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)


def recipe_of(corpus, **changes):
    return tiny_recipe(corpus, model=MODEL, stages=STAGES, validation={"rows": 8}, **changes)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    pool(1).run(train, recipe_of(corpus), folder)
    return folder


def learned(folder: Path) -> dict:
    (event,) = (line for line in metrics(folder) if line.get("event") == "learned_maps")
    return event


def test_a_run_stopped_before_the_change_learns_the_same(corpus, whole, tmp_path):
    pool(1).run(train_until, recipe_of(corpus), tmp_path / "run", 4)
    assert not any(line.get("event") == "learned_maps" for line in metrics(tmp_path / "run"))
    pool(1).run(train, recipe_of(corpus), tmp_path / "run")
    assert learned(tmp_path / "run") == learned(whole)
    assert losses(tmp_path / "run") == losses(whole)
    assert same_bits(tmp_path / "run", whole)


def signalled_while_learning(recipe, folder: Path) -> None:
    """A signal that comes in the second step on the maps."""
    calls = count()
    with patch("pretrain.training.learning.asked_to_stop", lambda: next(calls) == 1), pytest.raises(Stop) as stopped:
        train(recipe, folder)
    assert stopped.value.code == ExitCode.PREEMPTED and "step 1 of learning" in str(stopped.value)


def test_a_signal_is_heard_while_it_learns(corpus, whole, tmp_path):
    pool(1).run(signalled_while_learning, recipe_of(corpus), tmp_path / "run")
    assert not any(line.get("event") == "learned_maps" for line in metrics(tmp_path / "run"))
    pool(1).run(train, recipe_of(corpus), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole) and same_bits(tmp_path / "run", whole)


def test_it_learns_last(corpus):
    grow = [{"ligo": {"steps": STEPS, "moments": "reset"}}, {"lengthen": {}}]
    shapes = [stage["shape"] | {"max_positions": length} for stage, length in zip(STAGES, (32, 64), strict=True)]
    stages = [STAGES[0] | {"shape": shapes[0]}, STAGES[1] | {"grow": grow, "shape": shapes[1]}]
    with pytest.raises(UserError, match="ligo learns its maps on the rows of this stage, so it has to come last"):
        resolve(tiny_recipe(corpus, model=MODEL | {"max_positions": 64}, stages=stages), None, 1)


@pytest.mark.parametrize(
    "changes", [{"deepspeed": "ds_configs/zero3.json"}, {"layout": {"tensor_parallel": 2}}], ids=str
)
def test_two_ranks_learn_what_one_does(corpus, whole, tmp_path, changes):
    """In fp32, after steps with other dropout masks: only the first loss can be compared, and that loosely."""
    recipe = recipe_of(corpus, **changes)
    pool(2).run(train, recipe, tmp_path / "run")
    assert learned(tmp_path / "run")["losses"] == pytest.approx(learned(whole)["losses"], rel=0.01)
    assert len(losses(tmp_path / "run")) == 7


def test_its_cost_counts_and_its_rows_are_those_that_follow(corpus, whole):
    """It learns from the rows of the stage's three steps, so each of these costs what it costs there, and the maps."""
    state, saved = load_checkpoint(find_checkpoint(whole))
    run, event = resolve(recipe_of(corpus), state.config.vocab_size, 1), learned(whole)
    flops = [line["flops"] for line in metrics(whole) if "event" not in line]
    jump, *others = (after - before for before, after in pairwise(flops[3:]))  # the first step, with the learning
    of_maps = STEPS * map_flops(run.stages[0].config, run.stages[1].config)
    assert event["flops"] == (jump + sum(others) + of_maps) / 2
    assert event["flops"] == pytest.approx(learning_flops(*run.stages), rel=0.1)  # `plan` knows the mean alone
    assert event["learning_steps"] == len(event["losses"]) == STEPS
    assert saved["progress"]["new_units"]["since"] == 4
