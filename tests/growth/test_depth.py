"""Operators on depth: which layers are copied, and what the added ones start with."""

import pytest
import torch

from growth.operators import make_operator, shape_change, shapes
from growth.operators.base import Inputs
from model.initialize import initial_weight
from tests.support.proving import POST, PRE, change_of, grown, loss, random_state, same_block, tiny


@pytest.mark.parametrize(
    ("operator", "layers", "sources"),
    [
        ("stack", 6, [0, 1, 2, 0, 1, 2]),
        ("stack", 5, [0, 1, 2, 0, 1]),
        ("interleave", 6, [0, 0, 1, 1, 2, 2]),
        ("interleave", 4, [0, 0, 1, 2]),
        ("append_top", 5, [0, 1, 2, 1, 2]),
        ("append_top", 6, [0, 1, 2, 0, 1, 2]),
        ("append_top", 4, [0, 1, 2, 2]),
        ("decoalesce", 6, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_depth_copies_layers(operator, layers, sources):
    """CompoundGrow and StackBERT: layer i == layer i mod L; MSLT: new layer j == layer 2 L0 - L1 + j. The loss
    changes."""
    source = tiny(layers=3)
    state = random_state(source)
    change = change_of(source, {operator: {}}, {"layers": layers})
    after = grown(change, state)
    assert [next(old for old in range(3) if same_block(after, new, state, old)) for new in range(layers)] == sources
    assert abs(loss(change.target, after) - loss(source, state)) > 1e-6
    outside = [name for name in state if not name.startswith("blocks.")]
    assert all(torch.equal(after[name].exp_avg_sq, state[name].exp_avg_sq) for name in outside)


def test_depth_follows_ragged_and_shared_layers():
    source = tiny(layers=3, heads=(1, 2, 3), sharing=None)
    assert shapes(source, [make_operator("stack", {})], {"layers": 5})[-1].heads == (1, 2, 3, 1, 2)
    assert shapes(source, [make_operator("append_top", {})], {"layers": 5})[-1].heads == (1, 2, 3, 2, 3)
    shared = tiny(layers=4, sharing=2)
    assert shapes(shared, [make_operator("stack", {})], {"layers": 8})[-1].sharing == 2
    assert shapes(shared, [make_operator("interleave", {})], {"layers": 8})[-1].sharing == (0, 0, 1, 1, 0, 0, 1, 1)


def test_fresh_layers_are_drawn_and_all_else_stays():
    """By default with the run's seed. They are as wide as the topmost layer, and share no block."""
    source = tiny(layers=4, sharing=(0, 0, 1, 1), ffn=(10, 10, 6, 6), output_init="scaled")
    state = random_state(source)
    for options, seed in (({}, 5), ({"seed": 7}, 7)):
        change = shape_change(source, [make_operator("fresh_layers", options)], {"layers": 6}, Inputs(seed=5))
        assert (change.target.sharing, change.target.ffn) == ((0, 0, 1, 1, 2, 3), (10, 10, 6, 6, 6, 6))
        after = grown(change, state)
        assert all(after[name] is record for name, record in state.items())
        for name in after.keys() - state.keys():
            assert torch.equal(after[name].weight, initial_weight(change.target, name, seed))
            assert after[name].step == 0
            assert not after[name].exp_avg.any() and not after[name].exp_avg_sq.any()


@pytest.mark.parametrize(
    ("operator", "layers", "sentence_layer"),
    [
        ("stack", 8, 2),
        ("append_top", 6, 2),
        ("interleave", 8, 4),
        ("interleave", 6, 3),  # the first and the third layer are doubled
        ("fresh_layers", 6, 2),
        ("tile_center", 5, 2),
        ("decoalesce", 8, 4),
        ("coalesce", 2, 1),
    ],
)
def test_a_head_stays_with_its_layer(operator, layers, sentence_layer):
    source = tiny(layers=4, sentence_layer=2)
    *_, target = shapes(source, [make_operator(operator, {})], {"layers": layers})
    assert target.sentence_layer == sentence_layer
    *_, asked = shapes(source, [make_operator(operator, {})], {"layers": layers, "sentence_layer": layers - 1})
    assert asked.sentence_layer == layers - 1
    *_, last = shapes(tiny(layers=4), [make_operator(operator, {})], {"layers": layers})
    assert last.sentence_layer is None


def test_doubled_layers_start_over_where_asked():
    """StackBERT's default is a reset: step, m and v are 0 after doubling; its other mode copies the slots."""
    state = random_state(POST)
    after = grown(change_of(POST, {"stack": {"moments": "reset"}}, {}), state)
    assert all(r.step == 0 and not r.exp_avg.any() and not r.exp_avg_sq.any() for r in after.values())


def test_identity_layers_put_out_zero_only_in_what_is_added():
    state = random_state(PRE)
    after = grown(change_of(PRE, {"identity_layers": {}}, {}), state)
    for added, old in ((1, 0), (3, 1)):
        assert same_block(after, added - 1, state, old)
        for kind in ("attention.output.weight", "attention.output.bias", "feedforward.output.weight"):
            assert not after[f"blocks.{added}.{kind}"].weight.any()
        assert after[f"blocks.{added}.feedforward.input.weight"].weight.any()
        kind = "attention.output.weight"
        for moment, neighbour in zip(
            after[f"blocks.{added}.{kind}"].tensors()[1:], state[f"blocks.{old}.{kind}"].tensors()[1:], strict=True
        ):
            assert torch.equal(moment, neighbour)
