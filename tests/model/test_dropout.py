"""Dropout out of random bits: the right share, no pattern, a function of the seed."""

import pytest
import torch

from model.dropout import Dropout, dropout, scaled_mask

NUM = 2**20


@pytest.mark.parametrize("probability", [0.0001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_share_and_scale(probability, dtype):
    torch.manual_seed(1)
    mask = scaled_mask(torch.empty(NUM, dtype=dtype), probability)
    assert mask.dtype == dtype
    assert mask.unique().numel() == 2
    assert mask.max().item() == pytest.approx(1 / (1 - probability), rel=1e-2 if dtype == torch.bfloat16 else 1e-4)
    deviation = (probability * (1 - probability) / NUM) ** 0.5
    assert abs((mask == 0).double().mean().item() - probability) < 5 * deviation + 2**-17


def test_neighbours_are_independent():
    """Also those that share a 64-bit word, and the same places of two draws."""
    torch.manual_seed(2)
    first, second = ((scaled_mask(torch.empty(NUM), 0.3) == 0).double() - 0.3 for _ in range(2))
    deviation = 0.3 * 0.7 / NUM**0.5
    for lag in (1, 2, 3, 4, 5, 128, 256):
        assert abs((first[lag:] * first[:-lag]).mean().item()) < 5 * deviation, lag
    assert abs((first * second).mean().item()) < 5 * deviation
    for place in range(4):
        assert abs(first[place::4].mean().item()) < 5 * (0.3 * 0.7 / (NUM / 4)) ** 0.5, place


@pytest.mark.parametrize("shape", [(0, 4), (1,), (7,), (2, 3, 5)])
def test_any_shape_and_the_gradient_takes_the_same_mask(shape):
    x = torch.ones(shape, requires_grad=True)
    y = dropout(x, 0.4)
    assert y.shape == x.shape
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_a_function_of_the_seed():
    x = torch.ones(1000)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(dropout(x, 0.5))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_is_dropped_in_evaluation_or_at_0():
    x = torch.ones(100)
    before = torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    assert torch.equal(torch.get_rng_state(), before)
