"""`deterministic: true` holds for a run, and changes nothing on a CPU."""

from pathlib import Path
from unittest.mock import patch

import torch

from model import attention_kernels
from model.batch import Runs
from pretrain.recipe import Recipe
from pretrain.training import trainer
from pretrain.training.train import train
from tests.support.tiny import metrics, same_bits, tiny_recipe
from tests.support.workers import pool


def fixed_order(recipe: Recipe, folder: Path) -> tuple[set[tuple[bool, bool]], bool]:
    """Trains; whether its steps hold torch, and flash-attn, to a fixed order; and whether torch is held afterwards."""
    told: list[bool] = []

    def kernel(*arguments, deterministic: bool, **options) -> torch.Tensor:
        told.append(deterministic)
        return arguments[0]

    seen, update = set(), trainer.update
    runs = Runs(torch.tensor([0, 4], dtype=torch.int32), 4)

    def updating(*arguments):
        attention_kernels.flash_attn(*torch.zeros(3, 4, 1, 8), runs, 0.0)
        seen.add((torch.are_deterministic_algorithms_enabled(), told[-1]))
        return update(*arguments)

    with patch.object(trainer, "update", updating), patch.object(attention_kernels, "flash_attn_varlen_func", kernel):
        train(recipe, folder)
    return seen, torch.are_deterministic_algorithms_enabled()


def test_a_run_holds_to_a_fixed_order(corpus, tmp_path):
    changes = dict(schedule={"warmup": 1}, stages=[{"name": "only", "steps": 3}], validation={"rows": 8})
    for asked in (False, True):
        recipe = tiny_recipe(corpus, deterministic=asked, **changes)
        assert pool(1).run(fixed_order, recipe, tmp_path / str(asked)) == [({(asked, asked)}, False)]
    assert same_bits(tmp_path / "True", tmp_path / "False")
    assert metrics(tmp_path / "True") == metrics(tmp_path / "False")
