"""Progressive layer dropping: schedule, rescaling, and the same draws on all ranks."""

import math

import pytest
import torch

from model.errors import UserError
from model.variants.layer_drop import LayerDrop
from pretrain.cost.flops import training_flops
from tests.support.running import build, layout_of, random_batch, small_config
from tests.support.workers import pool


def dropping(**changes):
    return small_config(layers=4, norm="pre", layer_drop={"keep": 0.5, "gamma": 0.01}, **changes)


def layers_run(model, batch) -> list[int]:
    run = []
    hooks = [
        block.attention.register_forward_hook(
            lambda module, inputs, output, layer=layer: run.extend([layer] * (len(output) > 0))
        )
        for layer, block in enumerate(model.blocks)
    ]
    model(batch).loss.backward()
    for hook in hooks:
        hook.remove()
    return run


def test_schedule():
    settings = LayerDrop(keep=0.5, gamma=0.01)
    assert settings.theta(0) == 1
    assert settings.theta(100) == pytest.approx(0.5 * math.exp(-1) + 0.5)
    assert settings.theta(10**6) == pytest.approx(0.5)
    keeps = [settings.keep_probability(layer, 12, 0.5) for layer in range(12)]
    assert keeps == sorted(keeps, reverse=True)
    assert keeps[-1] == 0.5
    assert sum(keeps) / 12 == pytest.approx(0.73, abs=0.005)  # the 24 % that the paper saves, and a bit


def test_at_the_start_and_in_evaluation_every_layer_runs():
    model = build(dropping()).train()
    assert layers_run(model, random_batch(model.config)) == [0, 1, 2, 3]
    model.begin_step(10**6, 10**6, seed=0)
    model.eval()
    plain = build(dropping().replace(layer_drop=None))
    assert model(random_batch(model.config)).loss.item() == plain(random_batch(model.config)).loss.item()


def test_upper_layers_are_dropped_more_often_at_the_stated_rates():
    model = build(
        small_config(layers=4, norm="pre", hidden=4, heads=1, ffn=4, layer_drop={}), dtype=torch.float32
    ).train()
    counts = torch.zeros(4)
    for step in range(2000):
        model.begin_step(10**6 + step, 0, seed=0)
        counts += torch.tensor([float(layer.draws.random() < layer.keep) for layer in model.layers])
    expected = torch.tensor([1 - (layer + 1) / 4 * 0.5 for layer in range(4)])
    assert (counts / 2000 - expected).abs().max() < 3 * 0.5 / 2000**0.5


def test_a_dropped_layer_is_skipped_and_its_gradient_is_zero():
    model = build(dropping()).train()
    model.begin_step(10**6, 0, seed=3)
    run = layers_run(model, random_batch(model.config))
    assert 0 < len(run) < 4
    for layer, block in enumerate(model.blocks):
        for parameter in block.parameters():
            assert parameter.grad is not None, "a missing gradient is not zero to an optimizer"
            assert bool(parameter.grad.any()) == (layer in run) or parameter is block.attention.key.bias


def test_the_mean_of_many_passes_approaches_the_kept_layer():
    config = small_config(layers=1, norm="pre", layer_drop={"keep": 0.6})
    model = build(config).train()
    model.begin_step(10**6, 0, seed=0)
    (layer,), block = model.layers, model.blocks[0]
    x = torch.randn(1, 4, config.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        passes = torch.stack([layer(x, None) for _ in range(500)])
        middle = x + block.attention(block.attention.norm(x), None) / 0.6
        kept = middle + block.feedforward(block.feedforward.norm(middle)) / 0.6
    expected = 0.6 * kept + 0.4 * x  # = x + the two branches, the second one on the stream it sees when kept
    deviation = (passes.mean(0) - expected).abs() / passes.std(0) * 500**0.5
    assert deviation.max() < 3.5


def layers_run_on_a_rank(config, seed):
    tp = layout_of(2).install()
    model = build(config, tp).train()
    runs = []
    for step in range(10):
        model.begin_step(10**6 + step, 0, seed)
        runs.append(layers_run(model, random_batch(config, seed=step)))
    return runs


def test_all_ranks_drop_the_same_layers():
    ranks = pool(2).run(layers_run_on_a_rank, dropping(), 0)
    assert ranks[0] == ranks[1]
    assert len({tuple(run) for run in ranks[0]}) > 2
    assert pool(2).run(layers_run_on_a_rank, dropping(), 1)[0] != ranks[0]


def test_flops_are_those_expected_in_the_end():
    config = dropping(sentence_head=False)
    plain = config.replace(layer_drop=None)
    one = training_flops(plain, 1, 16, 0) / 4
    assert training_flops(config, 1, 16, 0) == pytest.approx(one * sum(1 - layer / 4 * 0.5 for layer in (1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(layer_drop={}), "layer_drop needs norm pre"),
        (
            dict(layer_drop={}, norm="pre", light_layers=(1,)),
            "layer_drop and light_layers do not go together",
        ),
        (dict(layer_drop={}, norm="pre", masked={"layers": (1,)}), "masked.layers and layer_drop do not go together"),
    ],
)
def test_refused_combinations(changes, message):
    with pytest.raises(UserError, match=message):
        small_config(**changes)
