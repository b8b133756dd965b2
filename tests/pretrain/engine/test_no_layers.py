"""A model of 0 layers, embeddings and heads alone, trains and grows as any other does: under every optimizer and
layout, and in a whole run, which resumes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from growth.operators import make_operator, shape_change
from growth.state import Record
from model.initialize import initial_weight
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.zero import destroy
from pretrain.recipe import Recipe
from pretrain.training.events import GrowthEvent, Hook, TrainerView
from pretrain.training.train import train as train_run
from pretrain.use.evaluate import evaluate_checkpoint
from tests.support.harness import CONFIG, start, train, whole_state
from tests.support.sharded import optimizer_settings
from tests.support.tiny import metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool


def losses(norm: str, optimizer: str, tp: int, stage: int, recompute: bool = False) -> list[float]:
    """Of three steps without layers, and three more with two of them."""
    config = CONFIG.replace(layers=0, norm=norm)
    settings = replace(optimizer_settings(optimizer, tp, stage), recompute=recompute)
    engine = start(config, settings)
    found = train(engine, 0, 3)
    change = shape_change(config, [make_operator("fresh_layers", {})], {"layers": 2})
    engine, _ = move(engine, settings, lambda state: change)
    found += train(engine, 3, 3)
    destroy(engine)
    return found


@pytest.mark.parametrize(
    ("norm", "optimizer", "tp", "stages", "recompute"),
    [
        ("post", "adamw", 1, (1, 2, 3), False),
        ("pre", "adamw", 2, (0, 3), True),
        ("post", "muon", 2, (1,), False),
        ("pre", "lamb", 1, (2,), False),
    ],
)
def test_the_layout_does_not_change_the_training(norm, optimizer, tp, stages, recompute):
    alone = pool(1).run(losses, norm, optimizer, 1, 0)[0]
    assert len(set(alone)) == 6
    for stage in stages:
        for found in pool(2).run(losses, norm, optimizer, tp, stage, recompute):
            assert found == pytest.approx(alone, abs=1e-5), f"ZeRO {stage}"


class AtTheHop(Hook):
    """Keeps the state just after the change of shape."""

    state: dict[str, Record]

    def on_growth(self, trainer: TrainerView, event: GrowthEvent) -> None:
        self.state = whole_state(read_state(trainer.engine))


def is_as_from_scratch(recipe: Recipe, folder: Path) -> bool:
    """Trains. Whether the new layers began with the weights that the run's seed gives a deep model."""
    hop = AtTheHop()
    train_run(recipe, folder, [hop])
    config = CONFIG.replace(**recipe.model, vocab_size=len(hop.state["mlm.bias"].weight))
    new = [name for name in hop.state if name.startswith("blocks.")]
    return len(new) == 2 * 16 and all(
        torch.equal(hop.state[name].weight, initial_weight(config, name, recipe.seed)) and hop.state[name].step == 0
        for name in new
    )


def evaluated(path: Path) -> float:
    return evaluate_checkpoint(path, None).result.loss


def test_a_run_begins_without_layers_and_resumes(corpus, tmp_path):
    recipe = tiny_recipe(
        corpus,
        seed=3,
        model=dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32, sentence_head=False),
        deepspeed="ds_configs/zero3.json",
        stages=[
            {"name": "zero", "steps": 6, "shape": {"layers": 0}},
            {"name": "deep", "steps": 4, "grow": "fresh_layers", "shape": {"layers": "100%"}},
        ],
    )
    assert all(pool(2).run(is_as_from_scratch, recipe, tmp_path / "whole"))
    pool(2).run(train_until, recipe, tmp_path / "parts", 3)
    validations = [line for line in metrics(tmp_path / "parts") if line.get("event") == "validation"]
    (loss,) = pool(1).run(evaluated, tmp_path / "parts")
    assert loss < validations[0]["valid_loss"]
    pool(2).run(train_until, recipe, tmp_path / "parts", 6)
    pool(2).run(train_run, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert same_bits(tmp_path / "parts", tmp_path / "whole")
