"""Rotary positions, gated units, norms without bias: what operators other than those of test_tiers.py make of them."""

import pytest
import torch

from growth.state import Record
from model.parameters import parameter_table
from tests.support.proving import (
    MODERN,
    RMS,
    assert_refused,
    change_of,
    grown,
    loss,
    random_state,
    same_block,
    same_record,
)


@pytest.mark.parametrize(
    ("grow", "layers", "copies_of_the_first"), [("stack", 4, [2]), ("interleave", 4, [1]), ("decoalesce", 4, [1])]
)
def test_a_copy_of_the_first_layer_gets_the_norm_it_lacks(grow, layers, copies_of_the_first):
    state = random_state(MODERN)
    change = change_of(MODERN, {grow: {}}, {"layers": layers})
    after = grown(change, state)
    assert change.target.first_norm is False and "blocks.0.attention.norm.weight" not in after
    for block in copies_of_the_first:
        norm = after.pop(f"blocks.{block}.attention.norm.weight")
        assert same_record(norm, Record.fresh(torch.ones(MODERN.hidden, dtype=torch.float64)))
        assert same_block(state, 0, after, block)


def test_coalescing_undoes_decoalescing():
    state = random_state(MODERN)
    up = change_of(MODERN, {"decoalesce": {}}, {"layers": 4, "hidden": 24, "heads": 6, "ffn": 20})
    down = change_of(up.target, {"coalesce": {}}, {"layers": 2, "hidden": 12, "heads": 3, "ffn": 10})
    back = grown(down, grown(up, state))
    assert down.target == MODERN
    for name, record in state.items():
        torch.testing.assert_close(back[name].weight, record.weight, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("grow", "field", "unit"), [("prune_neurons", "ffn", 7), ("prune_heads", "heads", 1)])
def test_pruning_equals_the_dense_model_without_the_outputs_of_what_is_removed(grow, field, unit):
    state = random_state(RMS)
    kept = [index for index in range(getattr(RMS, field)) if index != unit]
    change = change_of(RMS, {grow: {"keep": [kept, kept]}}, {}, state)
    pruned = grown(change, state)
    axis = [other.name for other in parameter_table(RMS)["blocks.0.feedforward.output.weight"].axes].index("ffn")
    for block in range(RMS.layers):
        name = f"blocks.{block}.{'feedforward' if field == 'ffn' else 'attention'}.output.weight"
        state[name].weight.select(axis, unit).zero_()
    assert loss(change.target, pruned) == pytest.approx(loss(RMS, state), rel=1e-12)
    if field == "ffn":
        gate = pruned["blocks.1.feedforward.gate.weight"]
        assert torch.equal(gate.exp_avg, state["blocks.1.feedforward.gate.weight"].exp_avg[kept])


LOCAL = RMS.replace(layers=3, local_attention={"window": 4, "global_every": 2})


def test_identity_layers_keep_the_function_where_each_layer_keeps_its_kind():
    state = random_state(LOCAL)
    change = change_of(LOCAL, {"identity_layers": {"place": "top"}}, {"layers": 5})
    assert loss(change.target, grown(change, state)) == pytest.approx(loss(LOCAL, state), rel=1e-12)


def test_a_stage_may_change_the_window():
    assert change_of(LOCAL, {}, {"local_attention": None}).target == LOCAL.replace(local_attention=None)


MISTAKES = [
    (LOCAL, {"identity_layers": {}}, {"layers": 6}, "layer 1 would become layer 2 and go from local to global"),
    (
        MODERN,
        {"lengthen": {"how": "interpolate"}},
        {"max_positions": 30},
        "rotary have no table to interpolate",
    ),
    (
        MODERN,
        {"stack": {}},
        {"layers": 4, "positions": "learned"},
        "positions rotary -> learned is not reached",
    ),
    (MODERN, {"widen": {}}, {"hidden": 24, "head_dim": 8}, "head_dim 4 -> 8 is not reached by grow"),
    (MODERN, {"share": {"correlation": 1}}, {}, "layers 0 and 1 share a block, but first_norm False"),
    (RMS, {"mask_growth": {}}, {"hidden": 14, "norm_type": "layer"}, "norm_type rms -> layer is not reached by grow"),
    (RMS, {"stack": {}}, {"layers": 4, "gated": False}, "gated True -> False is not reached by grow"),
]


@pytest.mark.parametrize(("source", "grow", "wanted", "message"), MISTAKES)
def test_what_no_operator_does_is_refused(source, grow, wanted, message):
    assert_refused(source, grow, wanted, message)


def test_a_stage_may_raise_theta():
    change = change_of(MODERN, {"lengthen": {}}, {"max_positions": 48, "rotary_theta": 160_000.0})
    assert change.target == MODERN.replace(max_positions=48, rotary_theta=160_000.0)
