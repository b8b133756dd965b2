"""The picture of a comparison: colours by recipe, no line over a pause, names that do not overlap."""

import math
from types import SimpleNamespace

import pytest

from pretrain.compare.picture import BASELINE, COLOURS, curve, looks_of, spread


def contender(name: str, role: str) -> SimpleNamespace:
    return SimpleNamespace(role=role, runs=[SimpleNamespace(name=name)])


def test_budgets_of_a_recipe_share_a_colour_and_the_baseline_is_black():
    names = [f"method-{number}" for number in range(12)]
    contenders = [contender("mini", "from scratch"), contender("mini", "from scratch")]
    contenders += [contender(name, "method") for name in names for _ in range(2)]
    looks = looks_of(contenders)
    assert looks["mini"] == {"color": BASELINE, "linestyle": "-"}
    assert [looks[name]["color"] for name in names] == [*COLOURS, *COLOURS[:2]]
    assert len({tuple(look.values()) for look in looks.values()}) == 13


def test_a_curve_has_a_gap_where_the_machine_paused():
    seconds = [1.0, 2.0, 3.0, 4.0, 64.0, 65.0, 66.0]
    steps = [SimpleNamespace(step=n, mlm_loss=5.0 - n, seconds=s, flops=n) for n, s in enumerate(seconds)]
    run = SimpleNamespace(steps=steps)
    assert [cost for cost, loss in curve(run, "seconds") if math.isnan(loss)] == [64.0]
    assert not any(math.isnan(loss) for _, loss in curve(run, "flops"))
    assert len(curve(run, "flops")) == 7


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([1.0, 3.0], [1.0, 3.0]),
        ([3.0, 1.0, 1.0], [3.0, 0.5, 1.5]),
        ([0.0, 0.1, 0.9, 5.0], [-2 / 3, 1 / 3, 4 / 3, 5.0]),
    ],
)
def test_names_are_moved_apart_no_further_than_they_must(values, places):
    assert spread(values, gap=1.0) == pytest.approx(places)
