"""What `plan` says of units that stay copies of one another."""

import pytest

from pretrain.cost.copies import equal_copies
from pretrain.recipe import Recipe, load_recipe, resolve
from tests.support.tiny import tiny_values

NARROW = {"hidden": 16, "heads": 2, "ffn": 32}
WIDE = {"hidden": 32, "heads": 4, "ffn": 64}
DRY = {"hidden_dropout": 0, "attention_dropout": 0}


def lines(grow, *later: dict, model: dict = DRY, wanted: dict = WIDE, layers: int = 2) -> list[str]:
    """Of a run whose second stage widens."""
    stages = [
        {"name": "narrow", "steps": 5, "shape": {**NARROW, "layers": layers}, "keep": "narrow"},
        {"name": "wide", "steps": 5, "grow": grow, "shape": wanted},
        *later,
    ]
    base = dict(layers=2, **WIDE, max_positions=32, **model)
    values = tiny_values("corpora/tiny", model=base, stages=stages)
    return list(equal_copies(resolve(Recipe.model_validate(values), None, 1)))


ALL = "wide: widen makes copies of ffn, heads, hidden units that stay equal: nothing tells them apart; give the"
FFN = "copies of ffn units that stay equal: nothing tells them apart"


@pytest.mark.parametrize(
    ("grow", "model", "line"),
    [
        ({"widen": {"noise": 0}}, DRY, ALL),
        ({"widen": {"how": "fpi", "noise": 0}}, DRY, ALL),
        ({"widen": {"noise": 0}}, {}, FFN),
        ({"widen": {"noise": 0}}, {"hidden_dropout": 0}, "copies of ffn, hidden units"),
        ({"widen": {"noise": 0}}, {"attention_dropout": 0}, "copies of ffn, heads units"),
        ({"decoalesce": {}}, DRY, "wide: decoalesce makes copies of ffn, heads, hidden units"),
        ({"widen": {"how": "aki"}}, DRY, "copies of ffn, heads units that stay equal: nothing"),
        ([{"widen": {"axis": ["hidden", "heads"]}}, {"tile_ffn": {}}], DRY, "wide: widen+tile_ffn makes " + FFN),
    ],
)
def test_copies_that_stay_equal_are_named(grow, model, line):
    (found,) = lines(grow, model=model)
    assert line in found


@pytest.mark.parametrize(
    ("grow", "later"),
    [
        ("widen", []),
        ({"widen": {"how": "lemon"}}, []),
        ({"widen": {"noise": 0, "moments": "new_units"}}, []),
        ({"mask_growth": {"steps": 2}}, []),
        ([{"tile_ffn": {}}, {"widen": {"axis": ["hidden", "heads"]}}], []),
        ({"widen": {"noise": 0}}, [{"name": "other", "steps": 5, "grow": {"interpolate": {"checkpoint": "runs/x"}}}]),
    ],
)
def test_copies_that_part_are_not(grow, later):
    assert lines(grow, *later) == []


def test_units_without_state_part_from_those_they_copy():
    wanted = {**NARROW, "ffn": 64}
    assert FFN in lines({"tile_ffn": {}}, wanted=wanted)[0]
    assert lines({"tile_ffn": {"moments": "new_units"}}, wanted=wanted) == []


def test_dropout_of_a_later_stage_parts_them():
    wet = {"name": "wet", "steps": 5, "shape": {"hidden_dropout": 0.1, "attention_dropout": 0.1}}
    assert ["copies of ffn units" in line for line in lines({"widen": {"noise": 0}}, wet)] == [True]


def test_copies_in_layers_that_are_frozen_to_the_end_are_named():
    frozen = {**WIDE, "frozen_layers": 1}
    (line,) = lines("widen", wanted=frozen)
    assert "copies of ffn, heads units that stay equal: their layers are frozen to the end" in line
    assert lines("widen", {"name": "thawed", "steps": 5, "shape": {"frozen_layers": 0}}, wanted=frozen) == []


def test_shipped_recipes_that_widen_waste_nothing():
    for name in ("staged-mini", "bert2bert-fpi-mini", "multilevel-mini", "lemon-mini"):
        assert list(equal_copies(resolve(load_recipe(name), None, 1))) == [], name
