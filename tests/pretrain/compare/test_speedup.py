"""Speedups on made-up runs whose answer is known."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.compare.judge import over_best
from pretrain.compare.roles import Contender, contenders
from pretrain.compare.runs import FinishedRun
from pretrain.compare.speedup import Reading, Speedup, read_off, speedup
from tests.support.made_up import VALIDATION, made_up_recipe


def law(flops: float, noise: float = 0.0) -> float:
    """Loss of the made-up baseline: linear in the logarithm of cost, so that interpolation is exact."""
    return 10 - math.log(flops) + noise


def run(name: str, flops: int, loss: float, *, seed: int = 0, grows: bool = False) -> FinishedRun:
    """The target from scratch for as many steps as FLOPs, or grown."""
    costs = {"flops": flops, "tokens": flops, "seconds": flops / 2, "device_seconds": flops}
    half = {"name": "half", "steps": "50%", "shape": {"layers": 2}}
    stages = [*([half] if grows else []), {"name": "full", "grow": ["stack"] if grows else [], "shape": {"layers": 4}}]
    recipe = made_up_recipe(name, flops, seed, stages=stages)
    return FinishedRun(Path(f"{name}-{seed}"), recipe, "deep", VALIDATION, loss, 0.5, costs, (), ())


NOISE = {0: -0.05, 1: 0.0, 2: 0.05}


def scratch() -> list[FinishedRun]:
    return [run(f"base-{b}", b, law(b, NOISE[s]), seed=s) for b in (100, 200, 400) for s in NOISE]


def judge(runs: list[FinishedRun], name: str, cost: str = "flops") -> Speedup:
    found = contenders(scratch() + runs)
    baseline = [contender for contender in found if contender.role == "from scratch"]
    return speedup(next(contender for contender in found if contender.name == name), baseline, cost)


def test_a_method_at_half_the_cost_is_twice_as_fast():
    result = judge([run("grown", 100, law(200, NOISE[s]), seed=s, grows=True) for s in NOISE], "grown")
    assert result.reading.factor == pytest.approx(2.0)
    assert result.verdict == "significant"
    assert result.low < 2 < result.high


def test_a_method_that_does_nothing_scores_one_and_is_not_significant():
    result = judge([run("nothing", 200, law(200, NOISE[s] + 0.01), seed=s, grows=True) for s in NOISE], "nothing")
    assert result.reading.factor == pytest.approx(1.0, abs=0.02)
    assert result.verdict == "not significant"
    assert result.low < 1 < result.high


def test_one_seed_is_never_significant():
    assert judge([run("lucky", 100, law(390), grows=True)], "lucky").verdict == "not significant"


@pytest.mark.parametrize(
    ("flops", "equal", "verdict"),
    [
        (400, 200, "significantly worse"),
        (200, 50, "significantly worse"),  # <=0.50
        (50, 60, "not significant"),  # <=2.00: no budget is as small
        (800, 900, "not significant"),  # >=0.50: no budget is as large
        (200, 800, "significant"),  # >=2.00
    ],
)
def test_a_verdict_says_which_is_better_and_only_where_budgets_tell(flops, equal, verdict):
    runs = [run("grown", flops, law(equal, NOISE[s]), seed=s, grows=True) for s in NOISE]
    assert judge(runs, "grown").verdict == verdict


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


def test_paired_by_seed_a_method_that_does_nothing_scores_exactly_one():
    nothing = [run("nothing", 200, law(200, NOISE[s]), seed=s, grows=True) for s in NOISE]
    paired = judge(nothing, "nothing").paired
    assert paired.readings == {0: Reading(1.0), 1: Reading(1.0), 2: Reading(1.0)}
    assert not paired.significant


def test_paired_by_seed_a_gain_smaller_than_the_noise_is_seen():
    result = judge([run("grown", 200, law(220, NOISE[s]), seed=s, grows=True) for s in NOISE], "grown")
    assert result.paired.factors == [pytest.approx(1.1)] * 3
    assert result.paired.significant
    assert result.verdict == "not significant", "the rule of medians decides"
    assert result.low < 1


@pytest.mark.parametrize(
    ("steps", "seeds"),
    [
        ({0: 220, 1: 220}, [0, 1]),  # two seeds
        ({0: 220, 1: 220, 7: 220}, [0, 1]),  # the baseline has no seed 7
        ({0: 220, 1: 220, 2: 190}, [0, 1, 2]),  # one does not gain
    ],
)
def test_paired_by_seed_three_have_to_gain(steps, seeds):
    paired = judge(
        [run("grown", 200, law(b, NOISE.get(s, 0)), seed=s, grows=True) for s, b in steps.items()], "grown"
    ).paired
    assert list(paired.readings) == seeds
    assert not paired.significant


def test_paired_by_seed_an_upper_bound_is_no_gain():
    worse = [run("grown", 50, law(90, NOISE[s]), seed=s, grows=True) for s in NOISE]
    paired = judge(worse, "grown").paired
    assert [str(reading) for reading in paired.readings.values()] == ["<=2.00"] * 3
    assert not paired.significant


@pytest.mark.parametrize(
    ("budgets", "reading"),
    [
        ([(100, 400), (150, 180)], "2.00"),  # the second never reached the loss: it offers no cheaper run
        ([(100, 400), (300, 600)], "<=2.00"),  # the second had it by its first budget: a smaller one might have, too
        ([(100, 400), (150, 180), (300, 600)], "<=2.00"),
        ([(150, 180), (300, 600)], "<=3.00"),
        ([(150, 180), (20, 160)], ">=1.60"),
    ],
)
def test_over_the_best_of_several_models_what_is_not_known_is_a_bound(budgets, reading):
    method = Contender("grown", "method", (run("grown", 100, law(200)),))
    plain = [
        Contender(f"{shape}-{flops}", "small", (replace(run("small", flops, law(flops)), shape=str(shape)),))
        for shape, curve in enumerate(budgets)
        for flops in curve
    ]
    assert str(over_best(method, plain).reading) == reading
