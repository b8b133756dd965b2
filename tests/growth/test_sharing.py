"""Sharing blocks and giving layers their own blocks."""

import pytest
import torch

from model.errors import UserError
from model.parameters import parameter_table
from tests.support.proving import change_of, grown, loss, loss_and_gradients, random_state, same_block, tiny, train_sgd


def test_sharing_and_unsharing():
    state = random_state(tiny(layers=4))
    shared = change_of(tiny(layers=4), {"share": {"correlation": 0.5}}, {"sharing": 2})
    together = grown(shared, state)
    name = "feedforward.input.weight"
    mean = (state[f"blocks.1.{name}"].weight + state[f"blocks.3.{name}"].weight) / 2
    torch.testing.assert_close(together[f"blocks.1.{name}"].weight, mean)
    squares = (state[f"blocks.1.{name}"].exp_avg_sq + state[f"blocks.3.{name}"].exp_avg_sq) / 2
    torch.testing.assert_close(together[f"blocks.1.{name}"].exp_avg_sq, squares * (1 + 0.5) / 2)
    apart = change_of(shared.target, {"unshare": {"correlation": 0.5}}, {})
    back = grown(apart, together)
    assert all(same_block(back, layer, back, layer % 2) for layer in range(4))
    torch.testing.assert_close(back[f"blocks.3.{name}"].exp_avg_sq, squares)
    torch.testing.assert_close(
        back[f"blocks.3.{name}"].exp_avg, together[f"blocks.1.{name}"].exp_avg * (2 / (1 + 0.5)) ** 0.5
    )


def test_unshared_layers_part_after_one_step():
    """SWE: equal bitwise until tau, the same logits at tau, different after one step."""
    source = tiny(layers=4, sharing=1)
    state = random_state(source)
    change = change_of(source, {"unshare": {"correlation": 0}}, {})
    after = grown(change, state)
    assert loss(change.target, after) == loss(source, state)
    _, tied_gradients = loss_and_gradients(source, state)
    _, gradients = loss_and_gradients(change.target, after)
    for name, gradient in tied_gradients.items():
        if name.startswith("blocks.0."):
            uses = torch.stack([gradients[name.replace("blocks.0.", f"blocks.{layer}.")] for layer in range(4)])
            torch.testing.assert_close(gradient, uses.mean(0), rtol=1e-10, atol=1e-14)
    later = train_sgd(change.target, after, 1)
    assert not any(same_block(later, layer, later, 0) for layer in range(1, 4))


def test_unshare_measures_where_no_correlation_is_given():
    source = tiny(layers=2, sharing=1)
    state = random_state(source)
    asked = []

    def correlation(config, shared, fetch):
        asked.append((config, shared))
        return dict.fromkeys(parameter_table(shared), 0.25)

    after = grown(change_of(source, {"unshare": {}}, {}, state, correlation=correlation), state)
    assert asked == [(source, source)]
    name = "attention.key.weight"
    torch.testing.assert_close(after[f"blocks.1.{name}"].exp_avg_sq, state[f"blocks.0.{name}"].exp_avg_sq * 2 / 1.25)
    with pytest.raises(UserError, match="correlation"):
        change_of(source, {"unshare": {}}, {}, state)
