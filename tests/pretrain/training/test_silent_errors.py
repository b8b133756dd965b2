"""Runs with the checks for silent errors: the rank is named and the fault undone; without a fault nothing changes."""

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pretrain.engine.zero import model_weights
from pretrain.recipe import Recipe, ResolvedStage
from pretrain.runs.history import History
from pretrain.training.events import Hook, StepResult, TrainerView
from pretrain.training.train import train
from tests.support.tiny import metrics, same_bits, stop_message, tiny_recipe
from tests.support.workers import pool

LAYER = "blocks.0.feedforward.input"
WRONG_RANK = 1
IN_WHOLE_BLOCKS = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)
"""Without sharing, so that ZeRO 3 gathers and reduces a block in one message."""


class BadMemory(Hook):
    """After step 5 a bit of a weight is another one on one rank."""

    done = False

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        if result.step == 5 and not self.done:
            self.done = True
            if dist.get_rank() == WRONG_RANK:
                model_weights(trainer.engine)[f"{LAYER}.weight"].view(-1)[7:8].view(torch.int32)[0] ^= 1 << 3


class BadProcessor(Hook):
    """One rank gets a wrong gradient, from step 6 on until its run has gone back `times` times."""

    def __init__(self, times: int):
        self.times = times
        self.starts = 0

    def on_start(self, trainer: TrainerView) -> None:
        self.starts += 1

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        def spoil(layer, inputs, output):
            if output.requires_grad and self.starts <= self.times and trainer.progress.step >= 5:
                output.register_hook(flip_a_bit)

        if dist.get_rank() == WRONG_RANK:
            trainer.engine.module.get_submodule(LAYER).register_forward_hook(spoil)


def flip_a_bit(gradient: torch.Tensor) -> torch.Tensor:
    flipped = gradient.clone()
    flipped.view(-1)[:1].view(torch.int32)[0] ^= 1 << 20
    return flipped


def recipe_of(corpus: Path, zero: int = 1, faults: dict | None = None, **changes) -> Recipe:
    short = {"stages": [{"name": "a", "steps": 8}], "schedule": {"warmup": 2}, "validation": {"rows": 8}}
    deepspeed = f"ds_configs/zero{zero}.json"
    return tiny_recipe(corpus, **(short | changes), deepspeed=deepspeed, faults=faults or {})


def train_with(hook: type[Hook], recipe: Recipe, folder: Path, *arguments: int) -> None:
    train(recipe, folder, [hook(*arguments)])


def rollback(folder: Path) -> str:
    (event,) = History.read(folder).events("rollback")
    return re.sub(r" on \S+", "", event["message"])


@pytest.mark.parametrize(
    ("ranks", "zero", "changes"),
    [
        (2, 1, {}),
        (2, 3, {"recompute": True}),
        (2, 3, {"model": IN_WHOLE_BLOCKS}),
        (4, 2, {"layout": {"tensor_parallel": 2, "sequence_parallel": True}}),
    ],
)
def test_the_checks_change_nothing(corpus, tmp_path, ranks, zero, changes):
    checks, changes = {"check_replicas": 1, "check_arithmetic": 2}, {"stages": [{"name": "a", "steps": 4}], **changes}
    pool(ranks).run(train, recipe_of(corpus, zero, **changes), tmp_path / "without")
    pool(ranks).run(train, recipe_of(corpus, zero, checks, **changes), tmp_path / "with")
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    assert same_bits(tmp_path / "with", tmp_path / "without")


@pytest.mark.parametrize(("zero", "every"), [(0, 3), (1, 5)])
def test_a_bit_that_flips_in_a_weight_is_named_and_undone(corpus, tmp_path, zero, every):
    """Without the copies of ZeRO 0 each step gathers the weights again: then the check has to come before the next."""
    pool(4).run(train, recipe_of(corpus, zero), tmp_path / "undisturbed")
    recipe = recipe_of(corpus, zero, {"check_replicas": every})
    pool(4).run(train_with, BadMemory, recipe, tmp_path / "run")
    found_at = 6 if zero == 0 else 5
    assert rollback(tmp_path / "run") == (
        f"step {found_at}: rank 1 holds other weights than other replicas (first in {LAYER}.weight): "
        "rolled back to step 4; the steps since then are taken again"
    )
    assert same_bits(tmp_path / "run", tmp_path / "undisturbed")


def test_a_rank_that_computes_wrongly_is_named_before_anything_is_saved(corpus, tmp_path):
    pool(4).run(train, recipe_of(corpus), tmp_path / "undisturbed")
    recipe = recipe_of(corpus, faults={"check_arithmetic": 100})
    pool(4).run(train_with, BadProcessor, recipe, tmp_path / "run", 1)
    assert rollback(tmp_path / "run") == (
        "step 8: rank 1 has other gradients of the same rows than other replicas: "
        "rolled back to step 4; the steps since then are taken again"
    )
    assert same_bits(tmp_path / "run", tmp_path / "undisturbed")


def stopped_with(recipe: Recipe, folder: Path) -> str:
    return stop_message(train_with, BadProcessor, recipe, folder, 9)


def test_a_rank_that_stays_wrong_ends_the_run(corpus, tmp_path):
    recipe = recipe_of(corpus, 3, {"check_arithmetic": 6, "roll_backs": 1}, model=IN_WHOLE_BLOCKS)
    for line in pool(2).run(stopped_with, recipe, tmp_path / "run"):
        assert re.fullmatch(
            r"step 6: rank 0 on \S+ or rank 1 on \S+ has other gradients of the same rows than other replicas, after "
            "1 rollbacks; leave that node out, and start again to resume",
            line,
        )
