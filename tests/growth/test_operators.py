"""What holds for all operators: what they refuse, how they compose, how a shape finds them."""

import pytest
import torch

from growth.operators import OPERATORS, default_operators, shapes
from tests.support.proving import MODERN, POST, assert_refused, change_of, grown, random_state, tiny

LOW_RANK = tiny(low_rank={"feedforward.input": 3})

MISTAKES = [
    (POST, {"stack": {}}, {"layers": 1}, r"layers 2 -> 1 removes layers; use coalesce"),
    (POST, {"stack": {}}, {"layers": 2}, r"layers 2 -> 2 adds none"),
    (POST, {"append_top": {}}, {"layers": 5}, r"layers 2 -> 5.*at most 4, or use stack"),
    (POST, {"identity_layers": {}}, {}, r"norm post.*use stack"),
    (tiny(norm="pre", sharing=1), {"identity_layers": {}}, {}, r"share blocks.*unshare first"),
    (POST, {"widen": {}}, {"hidden": 30}, r"hidden 12 -> 30 is not a multiple.*mask_growth"),
    (POST, {"widen": {"how": "lemon"}}, {"ffn": 15}, r"ffn 10 -> 15 is not a multiple.*use how: copy"),
    (POST, {"widen": {}}, {"heads": 2}, r"heads 3 -> 2 shrinks; use prune_heads"),
    (POST, {"widen": {}}, {"ffn": 5}, r"ffn 10 -> 5 shrinks; use prune_neurons"),
    (POST, {"widen": {}}, {"hidden": 6}, r"hidden 12 -> 6 shrinks; use coalesce"),
    (POST, {"widen": {}}, {}, r"the shape does not change hidden, heads"),
    (POST, {"widen": {"axis": "ffn"}}, {"heads": 6}, r"the shape does not change ffn"),
    (POST, {"widen": {"axis": "ffn"}}, {"ffn": 20, "heads": 6}, r"heads 3 -> 6 is not reached by grow; add widen or"),
    (POST, {"tile_ffn": {}}, {"ffn": 25}, r"ffn 10 -> 25 is not a multiple; use widen"),
    (POST, {"tile_ffn": {}}, {"ffn": 5}, r"ffn 10 -> 5 shrinks; use prune_neurons"),
    (POST, {"tile_center": {}}, {"ffn": 5}, r"tile_center: ffn 10 -> 5 shrinks; use coalesce or prune"),
    (POST, {"tile_center": {}}, {"layers": 1}, r"tile_center: layers 2 -> 1 removes layers"),
    (POST, {"tile_center": {}}, {}, r"changes neither layers nor widths"),
    (POST, {"ligo": {}}, {"ffn": 5}, r"ligo: ffn 10 -> 5 shrinks.*ask for more"),
    (POST, {"ligo": {}}, {}, r"sets none of layers, hidden, heads, ffn; set one of them"),
    (POST, {"ligo": {}}, {"layers": 2}, r"layers stay as they are; ask for more, or leave it out"),
    (POST, {"ligo": {}}, {"heads": (3, 6)}, r"heads \(3, 6\) is not one number for all layers"),
    (tiny(sharing=1), {"ligo": {}}, {"ffn": 20}, r"needs layers of equal widths with a block each; unshare first"),
    (tiny(ffn=(10, 12)), {"ligo": {}}, {"hidden": 20}, r"needs layers of equal widths"),
    (LOW_RANK, {"ligo": {}}, {"ffn": 20}, r"has no maps for low_rank; grow before that"),
    (MODERN, {"ligo": {}}, {"layers": 4}, r"has no maps for first_norm"),
    (POST, {"ligo": {}}, {"ffn": 20}, r"learned on the rows of a run.*set the option steps to 0"),
    (POST, {"lengthen": {}}, {"max_positions": 8}, r"max_positions 12 -> 8"),
    (POST, {"unshare": {}}, {}, r"nothing to unshare"),
    (tiny(layers=4, sharing=2), {"unshare": {}}, {"sharing": 1}, r"puts layers.*use share"),
    (tiny(layers=4, sharing=2), {"share": {}}, {"sharing": 3}, r"sharing 2 -> 3.*use unshare"),
    (POST, {"densify": {}}, {}, r"no layer has low rank"),
    (LOW_RANK, {"densify": {}}, {"low_rank": {"feedforward.input": 2}}, r"3 -> 2 is not full"),
    (POST, {"softmax_attention": {}}, {}, r"softmax already"),
    (POST, {"own_maps": {}}, {}, r"gives no layer a map of its own"),
    (POST, {"fold_slimming": {}}, {}, r"no slimming coefficients"),
    (POST, {"unmask": {}}, {}, r"no units fade in"),
    (POST, {"unpool": {}}, {}, r"pool_window 1 -> 1 does not pool less"),
    (tiny(masked={"ffn": 5}), {"stack": {}}, {}, r"still fade in.*put unmask before it"),
    (POST, {"mask_growth": {}}, {"ffn": 5}, r"ffn 10 -> 5 shrinks; use prune_neurons"),
    (POST, {"mask_growth": {}}, {}, r"asks for no more hidden, heads, ffn or layers"),
    (POST, {"prune_heads": {}}, {"heads": 5}, r"heads 3 -> 5.*grows; use widen"),
    (POST, {"prune_heads": {}}, {}, r"set shape.heads to the number to keep"),
    (POST, {"prune_heads": {"keep": [[0], [3]]}}, {}, r"keep \[3\] of layer 1: choose some of 0..2"),
    (POST, {"prune_neurons": {"keep": [[0]]}}, {}, r"keep lists 1 layers, the model has 2"),
    (POST, {"prune_neurons": {"keep": [[0], [1]], "quota": "global"}}, {}, r"quota global has nothing to decide"),
    (tiny(sharing=1), {"prune_neurons": {"quota": "global"}}, {"ffn": 5}, r"quota global needs layers with a block"),
    (POST, {"coalesce": {}}, {"ffn": 20}, r"ffn 10 -> 20 grows; use decoalesce"),
    (POST, {"coalesce": {}}, {"ffn": 4}, r"ffn 10 -> 4 is not a whole factor"),
    (POST, {"decoalesce": {}}, {"layers": 1}, r"layers 2 -> 1 shrinks; use coalesce"),
    (POST, {"coalesce": {}}, {}, r"set one of them"),
    (POST, {"coalesce": {}}, {"layers": 0}, r"layers 2 -> 0 is not a whole factor"),
    (tiny(layers=0), {}, {"layers": 2}, r"layers 0 -> 2 is not reached by grow; add fresh_layers to grow"),
    (tiny(layers=0), {"fresh_layers": {}}, {}, r"layers 0 -> 0 adds none"),
    (POST, {"stack": {}}, {"layers": 4, "activation": "relu"}, r"activation gelu -> relu is not reached.*no operator"),
]


@pytest.mark.parametrize(("source", "grow", "wanted", "message"), MISTAKES)
def test_an_operator_that_cannot_reach_the_shape_says_what_can(source, grow, wanted, message):
    assert_refused(source, grow, wanted, message)


def test_only_fresh_layers_work_on_a_model_without_layers():
    empty, wanted = tiny(layers=0), {"layers": 4, "hidden": 24, "max_positions": 30}
    for name in OPERATORS.keys() - {"fresh_layers"}:
        grow = {name: {"checkpoint": "before"} if name == "interpolate" else {}}
        assert_refused(empty, grow, wanted, f"grow {name}: the model has 0 layers.*put fresh_layers before it")
    chosen = [operator.name for operator in default_operators(empty, wanted)]
    assert chosen == ["fresh_layers", "widen", "lengthen"]


def test_operators_compose_like_their_changes_in_turn():
    state = random_state(POST)
    first = change_of(POST, {"tile_ffn": {}}, {"ffn": 20})
    second = change_of(first.target, {"stack": {}}, {"layers": 4})
    at_once = change_of(POST, {"tile_ffn": {}, "stack": {}}, {"ffn": 20, "layers": 4})
    in_turn = grown(second, grown(first, state))
    for name, record in grown(at_once, state).items():
        assert all(torch.equal(a, b) for a, b in zip(record.tensors(), in_turn[name].tensors(), strict=True))


@pytest.mark.parametrize(
    ("source", "wanted", "names"),
    [
        (POST, {"layers": 4}, ["stack"]),
        (POST, {"hidden": 24, "heads": 6, "ffn": 20, "layers": 4}, ["stack", "widen"]),
        (tiny(layers=4, sharing=1), {"sharing": None, "ffn": 20}, ["unshare", "widen"]),
        (tiny(layers=4), {"sharing": 2}, ["share"]),
        (LOW_RANK, {"low_rank": {}, "layers": 4}, ["densify", "stack"]),
        (POST, {"heads": 2, "ffn": (10, 4)}, ["prune_heads", "prune_neurons"]),
        (POST, {"hidden": 6, "layers": 1, "heads": 1, "ffn": 5}, ["coalesce"]),
        (POST, {"max_positions": 40}, ["lengthen"]),
        (POST, {"hidden": 18, "ffn": 20}, ["mask_growth"]),
        (tiny(masked={"ffn": 5}), {"masked": None, "layers": 4}, ["unmask", "stack"]),
        (tiny(attention="elu", light_layers=()), {"attention": "softmax"}, ["softmax_attention"]),
        (tiny(pool_window=2), {"pool_window": 1, "ffn": 20}, ["widen", "unpool"]),
        (tiny(light_layers=(1,)), {"light_layers": ()}, ["own_maps"]),
        (tiny(slimming={}), {"slimming": None, "heads": 2}, ["prune_heads", "fold_slimming"]),
        (POST, {"hidden_dropout": 0.1}, []),
    ],
)
def test_auto_resolves_a_shape_to_operators(source, wanted, names):
    operators = default_operators(source, wanted)
    assert [operator.name for operator in operators] == names
    reached = shapes(source, operators, wanted)[-1]
    assert reached.replace(masked=None) == source.replace(**wanted).replace(masked=None)


@pytest.mark.parametrize("noise", [None, 0.0, 0.1])
def test_auto_hands_its_noise_to_widen(noise):
    stack, widen = default_operators(POST, {"layers": 4, "ffn": 20}, noise)
    assert stack.name == "stack" and widen.noise == noise


def test_every_operator_is_documented():
    for name, operator in OPERATORS.items():
        text = __import__(operator.__module__, fromlist=["x"]).__doc__
        assert "tier" in text.lower(), name
        assert any(year in text for year in ("201", "202")) or "unshare" in text, f"{name} names no paper"
