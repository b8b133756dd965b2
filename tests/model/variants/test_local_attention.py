"""Windows: exact against numpy, by blocks in less than the square, counted by what is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.errors import UserError
from model.variants.local_attention.layers import Window, WindowAttention
from pretrain.cost.flops import MIXING, layer_terms
from tests.support.running import assert_close, build, random_batch, run, small_config

LOCAL = small_config(local_attention={"window": 6, "global_every": 2}, layers=2, max_positions=600)


def attention() -> WindowAttention:
    found = build(LOCAL).blocks[0].attention
    assert isinstance(found, WindowAttention)
    return found


@pytest.mark.parametrize("length", [11, 12, 40])
def test_blocks_compute_the_window_and_nothing_else(length):
    segments = torch.zeros(2, length, dtype=torch.int64)
    segments[0, :5], segments[0, 5:], segments[1, : length - 4] = 1, 2, 1
    query, key, value = torch.randn(3, 2, 4, length, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    window = Window.of(segments, LOCAL.local_attention)
    assert window.seen.shape == (2, 1, -(-length // 3), 3, 9)
    found = attention().attend(query, key, value, window).numpy()

    place = np.arange(length)
    seen = np.abs(place[:, None] - place) <= 3
    seen = seen & (segments[:, :, None] == segments[:, None, :]).numpy()
    weights = np.exp((query @ key.mT).numpy() / 6**0.5) * seen[:, None]
    expected = weights / weights.sum(-1, keepdims=True) @ value.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("layout", ["full", "padded", "packed"])
def test_a_window_as_wide_as_the_row_is_global_attention(layout):
    batch = random_batch(LOCAL, layout)
    wide = LOCAL.replace(local_attention={"window": 24, "global_every": 2})
    plain = run(LOCAL.replace(local_attention=None), batch)
    assert_close(run(wide, batch), plain)
    with pytest.raises(AssertionError):
        assert_close(run(LOCAL, batch), plain, tolerance=1e-4)


def test_far_tokens_are_not_computed():
    query = torch.randn(1, 4, 512, 6, dtype=torch.float64)
    window = Window.of(torch.ones(1, 512, dtype=torch.int64), LOCAL.local_attention)
    with FlopCounterMode(display=False) as counter:
        attention().attend(query, query, query, window)
    assert counter.get_total_flops() == 2 * 2 * 4 * 6 * 513 * 9  # the length in whole blocks, three blocks of keys


@pytest.mark.parametrize(("length", "window"), [(12, 6), (12, 7), (12, 40), (64, 1), (500, 128), (3, 4)])
def test_flops_count_what_is_seen(length, window):
    shape = LOCAL.replace(local_attention={"window": window, "global_every": 2})
    place = np.arange(length)
    pairs = int((np.abs(place[:, None] - place) <= window // 2).sum())
    assert layer_terms(shape, 1, length)[MIXING] == pytest.approx(2 * 2 * pairs * shape.hidden)
    assert layer_terms(shape, 0, length)[MIXING] == 2 * 2 * length**2 * shape.hidden


def test_what_is_kept_does_not_grow_with_the_row():
    assert LOCAL.mapped_keys(0, 600) == 600
    assert LOCAL.mapped_keys(1, 600) == LOCAL.mapped_keys(1, 300) == 9 + 6 * LOCAL.head_dim
    assert LOCAL.mapped_keys(1, 8) == 8


def test_dropout_and_computing_again_see_the_same_window():
    config = LOCAL.replace(attention_dropout=0.3)
    gradients = []
    for recompute in (False, True):
        model = build(config).train()
        model.recompute = recompute
        torch.manual_seed(3)
        model(replace(random_batch(config), types=None)).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attention="elu"), "local_attention and attention do not go together: a kernel sums"),
        (dict(light_layers=(1,)), "local_attention and light_layers do not go together"),
        (dict(pool_window=2), "local_attention and pool_window do not go together"),
        (dict(local_attention={"window": 6, "theta": 100.0}), "theta 100.0 is for rotary positions"),
    ],
)
def test_what_has_no_window_is_refused(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        LOCAL.replace(**changes)
    assert "\n" not in str(caught.value)
