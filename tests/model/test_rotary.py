"""Rotary positions by their formula, in packed rows, in recomputed layers; RMSNorm and token dropout by theirs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.errors import UserError
from model.norm import RmsNorm
from model.rotary import Rotation
from tests.support.running import assert_close, build, random_batch, run, small_config

ROTARY = small_config(positions="rotary", type_vocab=0, norm="pre")


def batch_at(positions: torch.Tensor) -> Batch:
    nothing = torch.empty(0, dtype=torch.int64)
    return Batch(torch.zeros_like(positions), nothing, nothing, positions=positions)


def test_pairs_turn_by_their_angles():
    positions = torch.tensor([[0, 1, 700], [5, 2, 9]])
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 6))
    turned = Rotation.of(batch_at(positions), head_dim=6, theta=100.0).turn(torch.from_numpy(x)).numpy()
    pairs = x[..., :3] + 1j * x[..., 3:]
    angles = positions.numpy()[:, None, :, None] / 100.0 ** (np.arange(3) * 2 / 6)
    expected = pairs * np.exp(1j * angles)
    np.testing.assert_allclose(turned, np.concatenate([expected.real, expected.imag], -1), atol=1e-4)


def test_only_distances_count():
    batch = random_batch(ROTARY, "padded")
    positions = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    hidden, moved = (build(ROTARY).encode(replace(batch, positions=positions + shift)) for shift in (0, 50))
    torch.testing.assert_close(moved, hidden, atol=1e-4, rtol=0)  # angles are fp32
    stretched = build(ROTARY).encode(replace(batch, positions=2 * positions))
    assert (stretched - hidden).abs().max() > 1e-2


def test_positions_begin_again_in_each_segment_of_a_packed_row():
    packed = random_batch(ROTARY, "packed")
    model = build(ROTARY)
    whole = model.encode(packed)
    for row in range(len(packed.ids)):
        for segment in range(1, int(packed.segments[row].max()) + 1):
            here = packed.segments[row] == segment
            nothing = torch.empty(0, dtype=torch.int64)
            alone = model.encode(Batch(packed.ids[row, here].unsqueeze(0), nothing, nothing))
            torch.testing.assert_close(whole[row, here], alone[0], atol=1e-12, rtol=0)


def test_layers_computed_again_are_the_same():
    model, again = build(ROTARY), build(ROTARY)
    again.recompute = True
    for each in (model, again):
        each(random_batch(ROTARY, "packed")).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, again.get_parameter(name).grad), name


def test_theta_changes_no_parameter_and_the_function():
    batch = random_batch(ROTARY)
    other = ROTARY.replace(rotary_theta=50.0)
    assert dict(build(other).named_parameters()).keys() == dict(build(ROTARY).named_parameters()).keys()
    with pytest.raises(AssertionError):
        assert_close(run(ROTARY, batch), run(other, batch), tolerance=1e-4)


def test_rms_norm_by_its_formula():
    x = np.random.default_rng(0).standard_normal((3, 8))
    norm = RmsNorm(8, eps=1e-3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(8))
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * np.arange(8)
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-14)


def test_token_dropout_counts_the_mask_of_each_segment():
    """One segment alone and in a packed row; the scale by numpy."""
    config = small_config(token_dropout={"mask_token": 5, "share": 0.2})
    packed = random_batch(config, "packed")
    ids = packed.ids.clone()
    ids[0, :2], ids[1, 4] = 5, 5
    packed = replace(packed, ids=ids)
    factors = build(config).parts[0].word_factors(packed)[..., 0].numpy()
    segments = packed.segments.numpy()
    for row, place in np.argwhere(segments > 0):
        mine = ids[row].numpy()[segments[row] == segments[row, place]] == 5
        expected = 0 if ids[row, place] == 5 else 0.8 / (1 - mine.mean())
        assert factors[row, place] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(positions="rotary", pool_window=2), "pool_window and positions rotary do not go together"),
        (dict(positions="rotary", position_init="sinusoidal"), "position_init sinusoidal is for a table of positions"),
        (dict(positions="rotary", heads=8, head_dim=3), "head_dim 3 is odd"),
        (dict(positions="none", attention_init="neighbours"), "neighbours needs sinusoidal positions"),
        (dict(embedding_norm=True), "embedding_norm is for norm pre"),
        (dict(first_norm=False), "set norm pre and embedding_norm true"),
        (
            dict(norm="pre", embedding_norm=True, first_norm=False, sharing=1),
            "layers 0 and 1 share a block, but first_norm False",
        ),
        (dict(low_rank={"feedforward.gate": 4}), "low_rank.feedforward.gate 4: this model has no such layer"),
    ],
)
def test_a_shape_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        small_config(**changes)
    assert "\n" not in str(caught.value)


def test_an_rms_norm_has_no_bias_however_it_is_written():
    assert small_config(norm_type="rms") == small_config(norm_type="rms", norm_bias=False)
