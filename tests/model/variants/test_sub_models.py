"""Random sub-models: which layers run, which are trained, and what a step costs on average."""

from collections import Counter

import pytest
import torch

from model.errors import UserError
from pretrain.cost.flops import training_flops
from tests.support.running import build, random_batch, small_config


def config_of(**changes):
    return small_config(layers=6, sub_models=2, **changes)


def trained_layers(model, batch) -> list[int]:
    """Layers with a gradient that is not zero; every parameter must have one."""
    model.zero_grad()
    model(batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), "a missing gradient is not zero"
    return [layer for layer, block in enumerate(model.blocks) if bool(block.feedforward.input.weight.grad.any())]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_step_trains_the_top_of_a_sub_model(norm):
    model = build(config_of(norm=norm)).train()
    batch = random_batch(model.config)
    seen = Counter()
    for step in range(20):
        model.begin_step(step, 0, seed=1)
        trained = trained_layers(model, batch)
        assert trained in ([0, 1], [2, 3], [4, 5])
        assert [layer for layer in range(6) if model.layers[layer].runs] == list(range(trained[-1] + 1))
        if trained != [0, 1]:
            assert not model.embeddings.position.weight.grad.any(), "a gradient passed through what is not trained"
        seen[tuple(trained)] += 1
    assert len(seen) == 3


def test_a_sub_model_is_the_model_of_so_many_layers():
    model = build(config_of(norm="pre")).train()
    small = build(small_config(layers=4, norm="pre"))
    batch = random_batch(model.config)
    step = 0
    while sum(layer.runs for layer in model.layers) != 4:
        model.begin_step(step := step + 1, 0, seed=0)
    assert model(batch).loss.item() == small(batch).loss.item()


def test_depths_are_drawn_evenly_and_by_seed():
    model = build(config_of(), dtype=torch.float32)
    draws = []
    for step in range(900):
        model.begin_step(step, 0, seed=0)
        draws.append(sum(layer.runs for layer in model.layers))
    assert {depth: pytest.approx(300, abs=60) for depth in (2, 4, 6)} == Counter(draws)
    model.begin_step(5, 0, seed=0)
    assert sum(layer.runs for layer in model.layers) == draws[5]


def test_in_evaluation_every_layer_runs():
    config = config_of()
    batch = random_batch(config)
    assert build(config)(batch).loss.item() == build(config.replace(sub_models=None))(batch).loss.item()


def test_flops_are_those_of_a_step_on_average():
    """Three depths: layers run in 3/3, 2/3 and 1/3 of the steps and are trained in 1/3 each."""
    config = config_of(sentence_head=False)
    whole = training_flops(config.replace(sub_models=None), 1, 16, 0)
    assert training_flops(config, 1, 16, 0) == pytest.approx(whole * ((6 / 3 + 2 * 3 / 3) / 3 / 3), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(layers=5), "sub_models 2 does not divide the 5 layers"),
        (dict(frozen_layers=1), "sub_models and frozen_layers do not go together: both decide"),
        (dict(norm="pre", layer_drop={}), "sub_models and layer_drop do not go together: both decide"),
        (dict(pool_window=2), "sub_models and pool_window do not go together: both decide"),
    ],
)
def test_refused_combinations(changes, message):
    with pytest.raises(UserError, match=message):
        small_config(**{"layers": 4, "sub_models": 2, **changes})
