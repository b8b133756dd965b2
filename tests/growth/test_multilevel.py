"""The V-cycle: down, up, and mixed with a saved state."""

import pytest
import torch

from model.errors import UserError
from tests.support.proving import POST, change_of, grown, random_state, tiny


def test_coalesce_leads_back_from_decoalesce():
    small = tiny(layers=2, hidden=8, heads=2, ffn=6)
    state = random_state(small)
    up = change_of(small, {"decoalesce": {}}, {"layers": 4, "hidden": 24, "heads": 4, "ffn": 12})
    down = change_of(up.target, {"coalesce": {}}, {"layers": 2, "hidden": 8, "heads": 2, "ffn": 6})
    back = grown(down, grown(up, state))
    for name, record in state.items():
        for left, right in zip(back[name].tensors(), record.tensors(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-15)


def test_coalescing_averages_pairs():
    """Units i and i + n (heads 0, 6; 1, 7; ...), neighbouring layers."""
    state = random_state(POST)
    after = grown(change_of(POST, {"coalesce": {}}, {"layers": 1, "ffn": 5}), state)
    biases = (state[f"blocks.{block}.feedforward.input.bias"].weight for block in range(2))
    expected = sum((bias[:5] + bias[5:]) / 2 for bias in biases) / 2
    torch.testing.assert_close(after["blocks.0.feedforward.input.bias"].weight, expected)


def test_interpolation():
    state, saved = random_state(POST), random_state(POST, seed=1)

    def opened(path):
        assert path == "runs/big"
        return POST, saved.__getitem__

    def mixed(alpha):
        options = {"checkpoint": "runs/big", "alpha": alpha}
        return grown(change_of(POST, {"interpolate": options}, {}, saved=opened), state)

    name = "blocks.0.feedforward.input.weight"
    assert torch.equal(mixed(1.0)[name].weight, state[name].weight)
    assert torch.equal(mixed(0.0)[name].weight, saved[name].weight)
    torch.testing.assert_close(mixed(0.25)[name].weight, 0.75 * saved[name].weight + 0.25 * state[name].weight)
    assert torch.equal(mixed(0.25)[name].exp_avg, state[name].exp_avg)


def test_interpolation_breaks_the_symmetry_of_decoalescing():
    small, saved = random_state(POST), random_state(tiny(ffn=20), seed=1)
    grow = {"decoalesce": {}, "interpolate": {"checkpoint": "big", "alpha": 0.5}}
    change = change_of(POST, grow, {"ffn": 20}, saved=lambda path: (tiny(ffn=20), saved.__getitem__))
    left, right = grown(change, small)["blocks.0.feedforward.input.weight"].weight.chunk(2)
    assert not torch.allclose(left, right)


def test_interpolation_with_another_shape_is_refused():
    other = tiny(ffn=20)
    with pytest.raises(UserError, match=r"runs/big holds .* ffn 20, the state here is .* ffn 10"):
        change_of(POST, {"interpolate": {"checkpoint": "runs/big"}}, {}, saved=lambda path: (other, None))
