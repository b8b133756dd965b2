"""Tiling from the centre: the old matrices in the middle of the new ones, by the layout of ModernBERT's two sizes."""

import json
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from growth.operators.tile_center import _Depth
from growth.state import Record
from model.config import MODERNBERT, BertConfig
from model.parameters import parameter_table
from pretrain.cost.plan import plan_tables
from pretrain.recipe import Recipe, load_recipe, resolve
from pretrain.recipe.library import laid_over
from pretrain.training.train import train
from tests.support.proving import MODERN, assert_refused, change_of, grown, loss_and_gradients, random_state, tiny
from tests.support.tiny import metrics
from tests.support.workers import pool

WANTED = {"layers": 3, "hidden": 16, "heads": 4, "ffn": 13}


def tiled(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The matrix with itself around it, cut to a shape that has it in its centre."""
    padding = [((new - old) // 2, new - old - (new - old) // 2) for old, new in zip(matrix.shape, shape, strict=True)]
    return np.pad(matrix, padding, mode="wrap")


def test_the_old_matrix_is_in_the_centre_and_wraps_around():
    state = random_state(MODERN)
    change = change_of(MODERN, {"tile_center": {"noise": 0}}, WANTED)
    for name, spec in parameter_table(change.target).items():
        layer = spec.block or 0
        old_name = name.replace(f"blocks.{layer}.", f"blocks.{(0, 1, 1)[layer]}.")
        if old_name not in state:  # the attention norm that a first layer does without
            continue
        old = state[old_name]
        expected = tiled(old.weight.numpy(), spec.shape)
        copies = np.ones(spec.shape)
        for place, axis in enumerate(spec.axes):
            if axis.role == "consumed" and axis.size != old.weight.shape[place]:
                units = tiled(np.arange(old.weight.shape[place]), (axis.size,))
                many = np.bincount(units)[units]
                copies = copies * many.reshape([-1 if axis_place == place else 1 for axis_place in range(copies.ndim)])
        found = change.record(name, state.__getitem__).weight.numpy()
        np.testing.assert_allclose(found * copies, expected, rtol=1e-12, err_msg=name)


def test_a_projection_of_the_embeddings_does_not_come_or_go():
    narrow, added = tiny(embedding_size=6), "embedding_size 12 -> 6 with hidden 12 -> 24 would add the projection"
    assert_refused(tiny(), {"tile_center": {}}, {"hidden": 24, "embedding_size": 6}, added)
    gone = "embedding_size 6 -> 24 with hidden 12 -> 24 would remove the projection between them; choose a smaller one"
    assert_refused(narrow, {"tile_center": {}}, {"hidden": 24, "embedding_size": 24}, gone)


def test_local_attention_goes_by_the_new_numbers_of_the_layers():
    """As ModernBERT-large's code copies those of base: round(22 i / 28)."""
    base, large = (BertConfig.preset(f"modernbert-{size}") for size in ("base", "large"))
    copied = _Depth().source_layers(22, 28)
    assert copied[:8] == [0, 1, 2, 2, 3, 4, 5, 6] and copied[-1] == 21 and set(copied) == set(range(22))
    of_global = [layer for layer in range(28) if not large.is_local(layer) and not base.is_local(copied[layer])]
    assert of_global == [0, 12, 15, 27]
    assert _Depth().source_layers(1, 4) == [0, 0, 0, 0]


def test_noise_between_copies_does_not_move_the_loss():
    state = random_state(MODERN)
    exact, noisy = (change_of(MODERN, {"tile_center": {"noise": noise}}, WANTED) for noise in (0, 0.3))
    before, _ = loss_and_gradients(MODERN, state)
    losses = [loss_and_gradients(change.target, grown(change, state))[0] for change in (exact, noisy)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert losses[0] != pytest.approx(before, rel=1e-3)  # tier 3


def test_modernbert_large_grown_leads_from_base_to_large_parameter_by_parameter():
    """On the meta device: every record has the shape that the large model wants, and all are counted."""
    run = resolve(load_recipe("modernbert-large-grown"), None, 8)
    base, large = run.stages
    for stage, preset in ((base, "modernbert-base"), (large, "modernbert-large")):
        assert stage.config == BertConfig.preset(preset).replace(rotary_theta=10_000)
    state = {
        name: Record.fresh(torch.empty(spec.shape, device="meta"))
        for name, spec in parameter_table(base.config).items()
    }
    after = grown(change_of(base.config, {"tile_center": {"noise": 0}}, dict(large.shape)), state)
    assert sum(record.weight.numel() for record in state.values()) == 149_655_232
    assert sum(record.weight.numel() for record in after.values()) == 395_881_664
    console = Console(width=300, file=StringIO())
    console.print(plan_tables(run))
    assert all(number in console.file.getvalue() for number in ("149,655,232", "395,881,664"))


def test_the_recipe_trains_from_24_to_32_wide_and_logs_both_losses(corpus, tmp_path):
    whole = load_recipe("modernbert-large-grown")
    values = json.loads(whole.model_dump_json(by_alias=True, exclude_defaults=True))
    stages = {
        "base": {"shape": {"layers": 4, "hidden": 24, "heads": 3, "ffn": 36}},
        "large": {"shape": {"layers": 5, "hidden": 32, "heads": 4, "ffn": 82}, "schedule": {"rewarm": 2}},
    }
    small = {
        **{"steps": 60, "precision": "fp32", "sequence": 32, "batch": {"global": 8, "micro": 4}, "stages": stages},
        "model": {"preset": None, "layers": 5, "hidden": 32, "heads": 4, "ffn": 82, "max_positions": 32}
        | {**MODERNBERT, "max_positions": 32, "local_attention": {"window": 8, "global_every": 3, "theta": 1e4}},
        "data": {"corpus": str(corpus)},
        **{"optimizer": {"lr": 3e-3}, "schedule": {"warmup": 4, "decay": 10}},
        **{"validation": {"every": 0, "rows": 32}, "checkpoint": {"every": 0}},
    }
    recipe = Recipe.model_validate(laid_over(values, small))
    pool(2).run(train, recipe, tmp_path / "run")
    lines = metrics(tmp_path / "run")
    (change,) = (line for line in lines if line.get("event") == "growth")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert change["operator"] == "tile_center"
    assert 0 < abs(change["loss_after"] - change["loss_before"]) < 0.1
    assert summary["valid_loss"] < change["loss_before"] < summary["initial_valid_loss"]
