"""Cheap forms that become plain: low rank, kernel attention, pooled input, maps of another layer."""

import pytest
import torch

from growth.state import Record
from tests.support.proving import POST, change_of, grown, loss, random_state, same_record, tiny


def test_densify_finds_the_gradient_that_the_factors_saw():
    """Least squares: G_up = G down^T and G_down = up^T G are met exactly by the estimate."""
    source = tiny(low_rank={"feedforward.input": 3})
    state = random_state(source)
    generator = torch.Generator().manual_seed(2)
    full = torch.randn(10, 12, generator=generator, dtype=torch.float64)
    up, down = (f"blocks.0.feedforward.input.{kind}" for kind in ("up", "down"))
    u, d = state[up].weight, state[down].weight
    state[up] = Record(u, full @ d.T, torch.full_like(u, 2.0) * d.square().sum(1), 9)
    state[down] = Record(d, u.T @ full, torch.full_like(d, 2.0) * u.square().sum(0).unsqueeze(1), 9)
    name = "blocks.0.feedforward.input.weight"
    after = grown(change_of(source, {"densify": {"moments": "copy"}}, {}), state)[name]
    torch.testing.assert_close(after.weight, u @ d)
    torch.testing.assert_close(after.exp_avg @ d.T, full @ d.T)
    torch.testing.assert_close(u.T @ after.exp_avg, u.T @ full)
    assert after.exp_avg.norm() < full.norm(), "the smallest solution: nothing is made up"
    torch.testing.assert_close(after.exp_avg_sq, torch.full_like(full, 2.0))
    assert after.step == 9
    in_size = grown(change_of(source, {"densify": {}}, {}), state)[name]
    old = torch.cat([(state[factor].exp_avg.square() / state[factor].exp_avg_sq).flatten() for factor in (up, down)])
    factor = (old.mean() / (after.exp_avg.square() / 2).mean()).sqrt()
    torch.testing.assert_close(in_size.exp_avg, after.exp_avg * factor)
    assert torch.equal(in_size.exp_avg_sq, after.exp_avg_sq)
    reset = grown(change_of(source, {"densify": {"moments": "reset"}}, {}), state)
    assert reset[name].step == 0
    assert reset["blocks.0.feedforward.output.weight"].step == 3000, "only what changed starts over"


@pytest.mark.parametrize(
    ("variant", "operator"), [({"attention": "elu"}, "softmax_attention"), ({"pool_window": 2}, "unpool")]
)
def test_cheap_forms_become_plain_weight_for_weight(variant, operator):
    source = tiny(**variant)
    state = random_state(source)
    change = change_of(source, {operator: {}}, {})
    assert change.target == POST
    after = grown(change, state)
    assert all(same_record(after[name], state[name]) for name in state)
    assert abs(loss(change.target, after) - loss(source, state)) > 1e-6


def test_light_layers_get_the_query_and_key_of_the_map_they_used():
    source = tiny(layers=3, light_layers=(1, 2))
    state = random_state(source)
    after = grown(change_of(source, {"own_maps": {}}, {}), state)
    for layer in (1, 2):
        for name in ("query.weight", "key.bias"):
            assert same_record(after[f"blocks.{layer}.attention.{name}"], state[f"blocks.0.attention.{name}"])
