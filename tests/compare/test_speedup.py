"""Speedups on made-up runs whose answer is known."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import UserError
from pretrain.compare.runs import FinishedRun, methods
from pretrain.compare.speedup import Reading, read_off, speedup


def law(flops: float, noise: float = 0.0) -> float:
    """Loss of the made-up baseline: linear in the logarithm of cost, so that interpolation is exact."""
    return 10 - math.log(flops) + noise


def run(
    name: str, flops: float, loss: float, *, seed: int = 0, shape: str = "deep", grows: bool = False
) -> FinishedRun:
    costs = {"flops": flops, "tokens": flops, "seconds": flops / 2, "device_seconds": flops}
    growth = ({"operator": "stack"},) if grows else ()
    return FinishedRun(Path(name), name, seed, {"budget": name}, shape, grows, loss, 0.5, costs, growth)


NOISE = {0: -0.05, 1: 0.0, 2: 0.05}


def scratch() -> list[FinishedRun]:
    return [run(f"base-{b}", b, law(b, NOISE[s]), seed=s) for b in (100, 200, 400) for s in NOISE]


def judge(runs: list[FinishedRun], name: str, cost: str = "flops"):
    found = methods(scratch() + runs)
    baseline = [method for method in found if method.role == "from scratch"]
    return speedup(next(method for method in found if method.name == name), baseline, cost)


def test_a_method_at_half_the_cost_is_twice_as_fast():
    result = judge([run("grown", 100, law(200, NOISE[s]), seed=s, grows=True) for s in NOISE], "grown")
    assert result.reading.factor == pytest.approx(2.0)
    assert result.significant
    assert result.low < 2 < result.high


def test_a_method_that_does_nothing_scores_one_and_is_not_significant():
    result = judge([run("nothing", 200, law(200, NOISE[s] + 0.01), seed=s, grows=True) for s in NOISE], "nothing")
    assert result.reading.factor == pytest.approx(1.0, abs=0.02)
    assert not result.significant
    assert result.low < 1 < result.high


def test_one_seed_is_never_significant():
    assert not judge([run("lucky", 100, law(390), grows=True)], "lucky").significant


def test_nothing_is_invented_beyond_the_baseline():
    curve = [(100.0, law(100)), (400.0, law(400))]
    assert str(read_off(curve, law(800), 200)) == ">=2.00"
    assert str(read_off(curve, law(50), 200)) == "<=0.50"
    assert read_off(curve, law(400), 100) == Reading(4.0)


def test_a_budget_that_a_cheaper_one_beats_is_noise():
    curve = [(100.0, 5.0), (200.0, 5.2), (400.0, 4.0)]
    assert read_off(curve, 4.5, 100).factor == pytest.approx(2.0)


@given(st.floats(100, 400), st.floats(10, 1000))
def test_interpolation_follows_the_law(equal_cost, cost):
    curve = [(b, law(b)) for b in (100.0, 200.0, 400.0)]
    assert read_off(curve, law(equal_cost), cost).factor == pytest.approx(equal_cost / cost, rel=1e-6)


def test_roles():
    runs = [*scratch(), run("grown", 100, 5, grows=True), run("half", 100, 5, shape="shallow")]
    roles = {method.name: method.role for method in methods(runs)}
    assert roles["grown"] == "grown"
    assert roles["half"] == "small"
    assert roles["base-100"] == "from scratch"
    assert len(next(method for method in methods(runs) if method.name == "base-100").runs) == 3


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        FinishedRun.read(tmp_path)
    with pytest.raises(UserError, match="from scratch"):
        methods([run("grown", 1, 1, grows=True)])
    with pytest.raises(UserError, match="different shapes"):
        methods(
            [
                run("a", 1, 1, grows=True),
                run("b", 1, 1, grows=True, shape="other"),
                run("c", 1, 1, shape="other"),
                *scratch(),
            ]
        )


def test_a_run_that_ends_pruned_is_measured_against_the_full_model():
    found = methods([*scratch(), run("grown", 100, 5, grows=True), run("pruned", 100, 5, grows=True, shape="ragged")])
    assert {method.name: method.role for method in found}["pruned"] == "grown"
