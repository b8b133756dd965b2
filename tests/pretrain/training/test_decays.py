"""Several decays from one run at a constant rate: each is, bit for bit, the end of a run that was to decay there."""

import json
from pathlib import Path

import pytest
import torch

from model.errors import UserError
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.compare.roles import contenders
from pretrain.compare.runs import FinishedRun
from pretrain.data import Corpus, DataPosition
from pretrain.interop.continuing import check_continued, continued
from pretrain.recipe import Recipe, resolve
from pretrain.training.preflight import check_run
from pretrain.training.train import train
from tests.support.tiny import losses, same_bits, tiny_recipe, tiny_values
from tests.support.workers import pool

MODEL = tiny_values("")["model"] | {"sharing": None, "hidden_dropout": 0, "attention_dropout": 0}
"""No dropout: its masks depend on the step number, and a decay starts again at 0."""
PEAK, DECAY = 12, 6


def recipe_of(corpus, steps: int, **changes):
    plain = {"model": MODEL, "stages": [{"name": "only", "steps": steps}], "checkpoint": {"every": PEAK // 2}}
    return tiny_recipe(corpus, **{**plain, **changes})


@pytest.fixture(scope="module")
def constant(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("constant") / "run"
    pool(2).run(train, recipe_of(corpus, PEAK, schedule={"shape": "constant", "warmup": 4}), folder)
    return folder


@pytest.mark.parametrize("peak", [PEAK // 2, PEAK])
def test_a_decay_is_the_end_of_a_run_that_decays_there(corpus, tmp_path, constant, peak):
    whole = recipe_of(corpus, peak + DECAY, schedule={"shape": "sqrt", "warmup": 4, "decay": DECAY})
    pool(2).run(train, whole, tmp_path / "whole")
    start = {"start": str(constant / "checkpoints" / f"step-{peak:08d}"), "start_with": "state"}
    pool(2).run(train, recipe_of(corpus, DECAY, schedule={"shape": "sqrt"}, **start), tmp_path / "decay")
    assert losses(tmp_path / "decay") == losses(tmp_path / "whole")[peak:]
    assert same_bits(tmp_path / "decay", tmp_path / "whole")
    decay, whole_run = FinishedRun.read(tmp_path / "decay"), FinishedRun.read(tmp_path / "whole")
    assert decay.budget == whole_run.budget == f"{peak + DECAY} steps"
    counted = ("flops", "tokens")
    assert [decay.costs[cost] for cost in counted] == pytest.approx([whole_run.costs[cost] for cost in counted], 1e-12)
    assert [step.flops for step in decay.steps] == pytest.approx([step.flops for step in whole_run.steps[peak:]], 1e-12)
    assert [contender.role for contender in contenders([decay])] == ["from scratch"]


def test_moments_carry_over_to_another_optimizer(corpus, tmp_path, constant):
    muon = {"name": "muon", "lr": 1e-2, "betas": [0.9, 0.98]}
    recipe = recipe_of(corpus, 1, optimizer=muon, schedule={}, start=str(constant), start_with="state")
    pool(2).run(train, recipe, tmp_path / "muon")
    state, _ = load_checkpoint(find_checkpoint(tmp_path / "muon"))
    assert set(state.steps.values()) == {PEAK + 1}
    assert "blocks.0.attention.query.weight" in state.with_one_moment
    assert torch.count_nonzero(state.records["blocks.0.attention.query.weight"].exp_avg)


def place_in_the_text(start: Path, corpus: Path, recipe: Recipe) -> DataPosition:
    opened = Corpus.open(corpus)
    first = resolve(recipe, opened.vocab_size, 1).stages[0]
    return continued(start, recipe, first.config, first.optimizer.chosen, opened)[1].position


def test_text_in_another_order_is_read_from_its_beginning(corpus, constant):
    places = [
        pool(1).run(place_in_the_text, constant, corpus, recipe_of(corpus, DECAY, **changes))[0]
        for changes in ({}, {"seed": 5}, {"data": {"corpus": str(corpus), "pack": True}})
    ]
    beginning = DataPosition(draw=places[0].draw)
    assert places[0] != beginning and places[1:] == [beginning, beginning]


def test_what_no_run_can_go_on_from_is_one_line(corpus, tmp_path, constant):
    with pytest.raises(UserError, match="there is no start; name a run or a checkpoint"):
        resolve(recipe_of(corpus, 4, start_with="state"), None, 1)
    wide = {"model": MODEL | {"ffn": 96}, "start": str(constant), "start_with": "state"}
    with pytest.raises(UserError, match="has shape .64, 32., the first stage needs .96, 32."):
        check_run(recipe_of(corpus, 4, **wide), 1, tmp_path / "wide")
    config = resolve(recipe_of(corpus, 4), None, 1).stages[0].config
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="holds weights alone, and start_with state asks for moments"):
        check_continued(tmp_path / "weights", config)
