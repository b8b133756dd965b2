"""Every operator does what its tier demands, in float64 on a whole BERT with tied embeddings.

Tier 1: the loss stays, and the old gradient is the new one mapped back. Tier 2: the new gradients are predicted, and
one optimizer step commutes with growing, for both moments.
"""

import pytest
import torch

from growth.state import Record
from tests.support.proving import (
    MODERN,
    POST,
    PRE,
    RMS,
    adam_moments,
    change_of,
    grown,
    loss_and_gradients,
    pulled_back,
    pushed_forward,
    random_state,
    summed_over_uses,
    tiny,
    worst,
)

SHARED = tiny(layers=4, sharing=2)
RAGGED = tiny(heads=(3, 2), ffn=(10, 7))
ALBERT = tiny(embedding_size=6)
LOW_RANK = tiny(low_rank={"feedforward.input": 3, "feedforward.output": 4, "attention.query": 2, "mlm.transform": 3})
EXACT = {"noise": 0}
WIDER = {"hidden": 36, "heads": 5, "ffn": 17}

STATE_PRESERVING = {
    "hidden x2": (POST, {"widen": EXACT}, {"hidden": 24}),
    "hidden x2, pre-LN": (PRE, {"widen": EXACT}, {"hidden": 24}),
    "heads unevenly": (POST, {"widen": EXACT}, {"heads": 5}),
    "ffn unevenly": (POST, {"widen": EXACT}, {"ffn": 13}),
    "all at once": (POST, {"widen": EXACT}, WIDER),
    "all at once, pre-LN": (PRE, {"widen": EXACT}, WIDER),
    "fpi": (POST, {"widen": {"how": "fpi", "seed": 3, **EXACT}}, WIDER),
    "ragged": (RAGGED, {"widen": EXACT}, {"hidden": 24, "heads": (3, 5), "ffn": (11, 21)}),
    "shared blocks": (SHARED, {"widen": EXACT}, WIDER),
    "low rank": (LOW_RANK, {"widen": EXACT}, WIDER),
    "embedding tables": (ALBERT, {"widen": EXACT}, {"embedding_size": 18}),
    "hidden with narrow embedding tables": (ALBERT, {"widen": EXACT}, {"hidden": 24}),
    "tile_ffn": (POST, {"tile_ffn": {}}, {"ffn": 30}),
    "tile_ffn, pre-LN, one layer": (PRE, {"tile_ffn": {}}, {"ffn": (20, 10)}),
    "tile_center, heads and ffn": (MODERN, {"tile_center": EXACT}, {"heads": 5, "ffn": 17}),
    "tile_center, hidden x2": (PRE, {"tile_center": EXACT}, {"hidden": 24, "heads": 4}),
    "decoalesce": (POST, {"decoalesce": {}}, {"hidden": 24, "heads": 6, "ffn": 20}),
    "modern parts": (MODERN, {"widen": EXACT}, WIDER),
    "modern parts, tile_ffn": (MODERN, {"tile_ffn": {}}, {"ffn": 30}),
    "RMSNorm, fpi": (RMS, {"widen": {"how": "fpi", **EXACT}}, WIDER),
    "RMSNorm, decoalesce": (RMS, {"decoalesce": {}}, {"hidden": 24, "heads": 6, "ffn": 20}),
}
FUNCTION_PRESERVING = {
    "widen by default": (POST, {"widen": {}}, WIDER),
    "fpi by default, pre-LN": (PRE, {"widen": {"how": "fpi"}}, WIDER),
    "narrow embedding tables by default": (ALBERT, {"widen": {}}, {"hidden": 24, "embedding_size": 18}),
    "noise": (POST, {"widen": {"noise": 1.0}}, WIDER),
    "noise, pre-LN": (PRE, {"widen": {"noise": 0.3, "seed": 5}}, WIDER),
    "tile_ffn with noise": (POST, {"tile_ffn": {"noise": 1.0}}, {}),
    "tile_center": (MODERN, {"tile_center": {}}, {"hidden": 24, "heads": 5, "ffn": 17}),
    "lemon": (POST, {"widen": {"how": "lemon"}}, {"hidden": 24, "heads": 6, "ffn": 30}),
    "lemon, pre-LN": (PRE, {"widen": {"how": "lemon"}}, {"hidden": 24, "heads": 6, "ffn": 30}),
    "unshare": (SHARED, {"unshare": {"correlation": 0.3}}, {}),
    "unshare by groups": (tiny(layers=4, sharing=1), {"unshare": {"correlation": 0.3}}, {"sharing": (0, 0, 1, 1)}),
    "identity layers": (PRE, {"identity_layers": {}}, {"layers": 5}),
    "identity layers on top": (PRE, {"identity_layers": {"place": "top"}}, {"layers": 3}),
    "identity layers below a head": (PRE.replace(layers=3, sentence_layer=2), {"identity_layers": {}}, {"layers": 6}),
    "lengthen": (POST, {"lengthen": {}}, {"max_positions": 30}),
    "densify": (LOW_RANK, {"densify": {}}, {}),
    "densify some": (LOW_RANK, {"densify": {}}, {"low_rank": {"attention.query": 2}}),
    "masked growth": (POST, {"mask_growth": {}}, {"hidden": 17, "heads": 4, "ffn": 13, "layers": 3}),
    "masked growth, pre-LN": (PRE, {"mask_growth": {}}, {"hidden": 18, "heads": 5, "ffn": 12, "layers": 4}),
    "masked growth, ragged": (RAGGED, {"mask_growth": {}}, {"hidden": 13, "ffn": (10, 9)}),
    "fold_slimming": (tiny(slimming={"heads": 0, "ffn": 0}), {"fold_slimming": {}}, {}),
    "modern parts, lemon": (MODERN, {"widen": {"how": "lemon"}}, {"hidden": 24, "heads": 6, "ffn": 30}),
    "modern parts, identity layers": (MODERN, {"identity_layers": {}}, {"layers": 5}),
    "modern parts, masked growth": (MODERN, {"mask_growth": {}}, {"hidden": 17, "heads": 4, "ffn": 13, "layers": 3}),
    "modern parts, lengthen": (MODERN, {"lengthen": {}}, {"max_positions": 30}),
    "RMSNorm, masked growth": (RMS, {"mask_growth": {}}, {"hidden": 17, "heads": 4, "ffn": 13}),
    "RMSNorm, unshare, noise": (
        *(RMS.replace(layers=4, sharing=2), {"unshare": {"correlation": 0.3}, "widen": {}}, {"hidden": 24}),
    ),
    "gated, fold_slimming": (RMS.replace(slimming={"heads": 0, "ffn": 0}), {"fold_slimming": {}}, {}),
    "gated, densify": (RMS.replace(low_rank={"feedforward.gate": 3}), {"densify": {}}, {}),
    "tile_ffn after unshare": (SHARED, {"unshare": {"correlation": 1}, "tile_ffn": {}}, {"ffn": 20}),
}


def named(cases: dict) -> list:
    return [pytest.param(*case, id=name) for name, case in cases.items()]


@pytest.mark.parametrize(("source", "grow", "wanted"), named(STATE_PRESERVING | FUNCTION_PRESERVING))
def test_function_is_preserved(source, grow, wanted):
    state = random_state(source)
    change = change_of(source, grow, wanted)
    loss, gradients = loss_and_gradients(source, state)
    new_loss, new_gradients = loss_and_gradients(change.target, grown(change, state))
    assert new_loss == pytest.approx(loss, rel=1e-12)
    old, new = summed_over_uses(source, gradients), summed_over_uses(change.target, new_gradients)
    assert worst(pulled_back(change, state, new), old) < 1e-9


@pytest.mark.parametrize(("source", "grow", "wanted"), named(STATE_PRESERVING))
def test_state_is_preserved(source, grow, wanted):
    state = random_state(source)
    change = change_of(source, grow, wanted)
    _, gradients = loss_and_gradients(source, state)
    after = grown(change, state)
    _, new_gradients = loss_and_gradients(change.target, after)
    assert worst(pushed_forward(change, state, gradients), new_gradients) < 1e-9

    step_then_grow = grown(change, adam_moments(state, gradients))
    grow_then_step = adam_moments(after, new_gradients)
    for moment in ("exp_avg", "exp_avg_sq"):
        left, right = (
            {name: getattr(record, moment) for name, record in side.items()}
            for side in (step_then_grow, grow_then_step)
        )
        assert worst(left, right) < 1e-9, moment
    assert all(step_then_grow[name].step == grow_then_step[name].step == 3001 for name in after)


def test_unequal_copies_of_hidden_do_not_preserve_the_state():
    """What the tier would notice: LEMON's fan-outs keep the loss and the pull-back, not the prediction of gradients."""
    state = random_state(POST)
    change = change_of(POST, {"widen": {"how": "lemon"}}, {"hidden": 24})
    _, gradients = loss_and_gradients(POST, state)
    _, new_gradients = loss_and_gradients(change.target, grown(change, state))
    assert worst(pushed_forward(change, state, gradients), new_gradients) > 1e-3


@pytest.mark.parametrize("dropped", ["consumed", "tied norm"])
def test_a_dropped_factor_changes_the_loss(dropped):
    """Without the division on consumed axes, or with the norm before the tied decoder taken for an ordinary one."""
    state = random_state(POST)
    change = change_of(POST, {"widen": EXACT}, {"hidden": 24})
    after = grown(change, state)
    wrong = ("mlm.norm.",) if dropped == "tied norm" else ("pooler.weight", "blocks.0.feedforward.input.weight")
    for name, record in after.items():
        if name.startswith(wrong):
            after[name] = Record(2 * record.weight, *record.tensors()[1:])
    loss, _ = loss_and_gradients(POST, state)
    assert abs(loss_and_gradients(change.target, after)[0] - loss) > 1e-3


def test_moment_policies():
    state = random_state(POST)
    for policy, expected in (("transform", 0.5), ("copy", 1.0), ("reset", 0.0)):
        after = grown(change_of(POST, {"widen": {"moments": policy}}, {"ffn": 20}), state)[
            "blocks.0.feedforward.input.bias"
        ]
        before = state["blocks.0.feedforward.input.bias"]
        assert torch.equal(after.weight, before.weight.repeat(2)), "the weights do not depend on the policy"
        assert torch.equal(after.exp_avg, expected * before.exp_avg.repeat(2))
        assert torch.equal(after.exp_avg_sq, expected**2 * before.exp_avg_sq.repeat(2))
        assert after.step == (0 if policy == "reset" else before.step)
