"""Operators on width and length: what new units are, and what tells them apart."""

import pytest
import torch

from model.bert import BertForPreTraining
from model.errors import UserError
from tests.support.proving import POST, change_of, grown, loss, random_state, tiny, train_sgd
from tests.support.running import random_batch


def test_tiled_ffn():
    """CompoundGrow: L((2hf + f)(1 - 1/k)) more parameters, blocks of W2 sum to the old W2, and the halves stay equal:
    no dropout of BERT's is between them."""
    state = random_state(POST)
    change = change_of(POST, {"tile_ffn": {}}, {})
    after = grown(change, state)
    added = sum(r.weight.numel() for r in after.values()) - sum(r.weight.numel() for r in state.values())
    hidden, ffn = POST.hidden, 2 * POST.ffn
    assert added == POST.layers * (2 * hidden * ffn + ffn) // 2
    left, right = after["blocks.0.feedforward.output.weight"].weight.chunk(2, dim=1)
    torch.testing.assert_close(left + right, state["blocks.0.feedforward.output.weight"].weight)
    for dropout in (0.0, 0.3):
        later = train_sgd(change.target.replace(hidden_dropout=dropout, attention_dropout=dropout), after, 3)
        left, right = later["blocks.0.feedforward.input.weight"].weight.chunk(2)
        torch.testing.assert_close(left, right, rtol=0, atol=1e-13)
        assert not torch.equal(left, after["blocks.0.feedforward.input.weight"].weight.chunk(2)[0]), "it has trained"


def difference_of_copies(grow: dict) -> list[float]:
    """The largest, on every axis that is doubled, after three steps without dropout."""
    change = change_of(POST, grow, {"hidden": 24, "heads": 6, "ffn": 20} if "widen" in grow else {"ffn": 20})
    later = train_sgd(change.target, grown(change, random_state(POST)), 3)
    produced = [("blocks.0.feedforward.input.weight", 0)]
    if "widen" in grow:
        produced += [("blocks.1.attention.value.weight", 0), ("embeddings.position.weight", 1)]
    halves = [later[name].weight.chunk(2, dim) for name, dim in produced]
    return [(left - right).abs().max().item() for left, right in halves]


@pytest.mark.parametrize("grow", [{"widen": {}}, {"widen": {"how": "fpi"}}, {"tile_ffn": {"noise": 1.0}}])
def test_noise_tells_copies_apart(grow):
    assert min(difference_of_copies(grow)) > 1e-6


@pytest.mark.parametrize("grow", [{"widen": {"noise": 0}}, {"tile_ffn": {}}])
def test_without_noise_copies_stay_equal(grow):
    assert max(difference_of_copies(grow)) < 1e-12


def test_staged_doubling_of_the_moments():
    """Staged training: for doubled width Adam's m, v become m/2, v/4 and are duplicated; a norm before the tied
    decoder, whose own weights are halved, keeps its moments."""
    state = random_state(POST)
    after = grown(change_of(POST, {"widen": {"noise": 0}}, {"hidden": 24, "heads": 6, "ffn": 20}), state)
    scales = {"embeddings.word.weight": 0.5, "blocks.0.attention.norm.weight": 0.5, "mlm.norm.weight": 1.0}
    for name, scale in scales.items():
        old, new = state[name], after[name]
        copies = [1] * (old.weight.dim() - 1) + [2]
        torch.testing.assert_close(new.exp_avg, scale * old.exp_avg.repeat(copies))
        torch.testing.assert_close(new.exp_avg_sq, scale**2 * old.exp_avg_sq.repeat(copies))
    torch.testing.assert_close(after["mlm.norm.weight"].weight, state["mlm.norm.weight"].weight.repeat(2) / 2)


def test_fpi_on_uneven_hidden_is_close_and_by_name_only():
    """bert2BERT: from 32 to 48 the loss differs, but by far less than fresh weights would make it."""
    source = tiny(hidden=32, heads=4, head_dim=8)
    state = random_state(source)
    before = loss(source, state)
    change = change_of(source, {"widen": {"how": "fpi"}}, {"hidden": 48, "heads": 6})
    after = loss(change.target, grown(change, state))
    assert 1e-9 < abs(after - before) < 0.05 * before
    with pytest.raises(UserError, match=r"hidden 32 -> 48 is not a multiple.*mask_growth.*how: fpi"):
        change_of(source, {"widen": {}}, {"hidden": 48})


def test_aki_takes_new_units_from_the_layer_above():
    state = random_state(POST)
    wanted = {"hidden": 24, "ffn": 20}
    fpi, aki = (grown(change_of(POST, {"widen": {"how": how, "noise": 0}}, wanted), state) for how in ("fpi", "aki"))
    name = "feedforward.input.weight"
    assert torch.equal(aki[f"blocks.0.{name}"].weight[:10], fpi[f"blocks.0.{name}"].weight[:10])
    assert torch.equal(aki[f"blocks.0.{name}"].weight[10:], fpi[f"blocks.1.{name}"].weight[10:])
    assert torch.equal(aki[f"blocks.1.{name}"].weight, fpi[f"blocks.1.{name}"].weight), "nothing is above the top"
    change = change_of(POST, {"widen": {"how": "aki"}}, wanted)
    assert abs(loss(change.target, aki) - loss(POST, state)) > 1e-6


def test_lemon_fans_out_unequally():
    state = random_state(POST)
    after = grown(change_of(POST, {"widen": {"how": "lemon"}}, {"ffn": 20}), state)
    left, right = after["blocks.0.feedforward.output.weight"].weight.chunk(2, dim=1)
    torch.testing.assert_close(left + right, state["blocks.0.feedforward.output.weight"].weight)
    assert (left - right).abs().max() > 1e-3


def test_longer_position_tables():
    state = random_state(POST)
    old = state["embeddings.position.weight"].weight
    copied = grown(change_of(POST, {"lengthen": {}}, {"max_positions": 30}), state)["embeddings.position.weight"].weight
    assert torch.equal(copied, old[torch.arange(30) % 12])
    spread = change_of(POST, {"lengthen": {"how": "interpolate"}}, {"max_positions": 23})
    new = grown(spread, state)["embeddings.position.weight"].weight
    torch.testing.assert_close(new[::2], old)
    torch.testing.assert_close(new[1], (old[0] + old[1]) / 2)


def test_new_units_wait_behind_the_mask():
    """MSG: old units keep weights and moments; new ones have those of unit i mod old, by the paper's own policy zeros.
    With the mask at 1 the plain model gives the same loss."""
    state = random_state(POST)
    wanted = {"hidden": 18, "ffn": 13, "layers": 3}
    name, added = "blocks.0.feedforward.input.weight", "blocks.2.feedforward.input.weight"
    for policy, seeded in (("transform", True), ("copy", False)):
        change = change_of(POST, {"mask_growth": {"moments": policy, "steps": 10}}, wanted)
        after = grown(change, state)
        for new, old in zip(after[name].tensors(), state[name].tensors(), strict=True):
            assert torch.equal(new[:10, :12], old)
        assert after[name].weight[10:].abs().min() > 0
        for moment, old in zip(after[name].tensors()[1:], state[name].tensors()[1:], strict=True):
            assert torch.equal(moment[10:, 12:], old[:3, :6] * seeded)
        assert torch.equal(after[added].exp_avg[:10, :12], state[name].exp_avg)
    assert change.target.masked.layers == (2,)

    model = BertForPreTraining(change.target).double()
    model.load_weights(lambda name: after[name].weight)
    batch = random_batch(change.target, "padded", length=8)
    plain = change_of(change.target, {"unmask": {}}, {})
    for steps, expected in ((0, loss(POST, state)), (10, loss(plain.target, grown(plain, after)))):
        model.begin_step(0, steps)
        assert model(batch, 0.25, 0.5).loss.item() == pytest.approx(expected, rel=1e-10)
