"""The learning rate is checked against values worked out by hand, and by properties that hold for every schedule."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.recipe.schedule import LearningRate, Phase, StageRate


def test_linear_warmup_then_linear_decay():
    rate = LearningRate((Phase(0, 10, peak=8.0, warmup=4),))
    assert [rate(step) for step in range(10)] == pytest.approx([2, 4, 6, 8, 8, 8 * 5 / 6, 8 * 4 / 6, 4, 8 / 3, 8 / 6])


@pytest.mark.parametrize(
    ("shape", "power", "halfway"),
    [
        ("linear", 1, 0.5),
        ("polynomial", 2, 0.25),
        ("polynomial", 0.5, math.sqrt(0.5)),
        ("cosine", 1, 0.5),
        ("sqrt", 1, 1 - math.sqrt(0.5)),
        ("constant", 1, 1),
    ],
)
def test_shape_halfway_and_at_the_end(shape, power, halfway):
    phase = Phase(100, 200, peak=3.0, shape=shape, end=0.1, power=power)
    assert phase(100) == pytest.approx(3.0)
    assert phase(200) == pytest.approx(3.0 * (0.1 + 0.9 * halfway))
    assert phase(300) == pytest.approx(3.0 if shape == "constant" else 0.3)


def test_lans_holds_the_peak_between_warmup_and_decay():
    """LANS phase 1 (Zheng et al. 2020): 3519 steps, 42.65% warmup, 27.35% constant, the rest linear to zero."""
    phase = Phase(0, 3519, peak=6.75e-3, warmup=1501, hold=962)
    assert phase(1500) == phase(1501) == phase(1501 + 962) == 6.75e-3
    assert phase(1501 + 962 + 528) == pytest.approx(6.75e-3 / 2)
    assert 0 < phase(3518) < 1e-5


def test_second_phase_starts_anew():
    rate = LearningRate((Phase(0, 100, peak=6e-3, warmup=28), Phase(100, 20, peak=4e-3, warmup=5)))
    assert rate(27) == 6e-3
    assert rate(99) == pytest.approx(6e-3 / 72)
    assert rate(100) == pytest.approx(4e-3 / 5)
    assert rate(104) == 4e-3


def test_rewarm_climbs_from_zero_and_scale_holds_for_its_stage():
    rate = LearningRate(
        (Phase(0, 100, peak=1.0, shape="constant"),), (StageRate(0), StageRate(40, rewarm=4, scale=0.5), StageRate(80))
    )
    assert [rate(step) for step in (39, 40, 41, 43, 44, 79, 80)] == pytest.approx([1, 0.125, 0.25, 0.5, 0.5, 0.5, 1])


@given(
    length=st.integers(1, 500),
    warmup_share=st.floats(0, 1),
    hold_share=st.floats(0, 1),
    shape=st.sampled_from(["linear", "polynomial", "cosine", "sqrt", "constant"]),
    end=st.floats(0, 1),
    power=st.floats(0.3, 3),
)
def test_every_phase_rises_holds_and_falls_within_its_bounds(length, warmup_share, hold_share, shape, end, power):
    warmup = int(warmup_share * length)
    hold = int(hold_share * (length - warmup))
    phase = Phase(0, length, peak=1.0, warmup=warmup, hold=hold, shape=shape, end=end, power=power)
    rates = [phase(step) for step in range(length)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rates[warmup:]))
    assert all(rate == 1.0 for rate in rates[max(warmup - 1, 0) : warmup + hold])


def test_corners_show_every_bend():
    rate = LearningRate((Phase(0, 100, peak=1.0, warmup=10, hold=20),), (StageRate(0), StageRate(50, rewarm=5)))
    assert {0, 9, 29, 49, 50, 54, 99} <= set(rate.corners)
