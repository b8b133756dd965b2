"""The envelope of all sizes, and the speedup over it, on made-up runs whose answer is known."""

import math
from pathlib import Path

import matplotlib.image
import pytest

from pretrain.compare.envelope import envelope
from pretrain.compare.judge import Line, judge
from pretrain.compare.roles import contenders
from pretrain.compare.runs import FinishedRun
from pretrain.compare.scaling import draw_scaling, looks_of
from tests.support.made_up import VALIDATION, made_up_recipe


def test_the_envelope_is_the_best_of_all_sizes_and_invents_nothing():
    small, large = [(100.0, 5.0), (400.0, 4.0), (800.0, 3.9)], [(200.0, 4.8), (800.0, 3.0)]
    best = envelope([small, large])
    assert best == [(100.0, 5.0), (200.0, pytest.approx(4.5)), (400.0, pytest.approx(3.9)), (800.0, 3.0)]
    assert envelope([small]) == small
    assert envelope([[(100.0, 5.0)], [(100.5, 4.0)]]) == [(100.0, 4.0)], "one budget, of steps that are not quite equal"
    noisy = [(100.0, 5.0), (200.0, 5.2), (400.0, 4.0)]  # a budget that a cheaper one beats is on the line of the others
    assert envelope([noisy]) == [(100.0, 5.0), (200.0, pytest.approx(4.5)), (400.0, 4.0)]


def run(name: str, layers: int, flops: int, as_if: float, seed: int, grows: bool = False) -> FinishedRun:
    """Ends where the target from scratch would for `as_if` FLOPs."""
    costs = {"flops": flops, "tokens": flops / layers, "seconds": flops, "device_seconds": flops}
    half = {"name": "half", "steps": "50%", "shape": {"layers": 2}}
    stages = [*([half] if grows else []), {"name": "full", "grow": ["stack"] if grows else [], "shape": {"layers": 4}}]
    recipe = made_up_recipe(name, flops, seed, {"layers": layers}, **({"stages": stages} if grows else {}))
    loss = 10 - math.log(as_if) + seed / 100
    return FinishedRun(Path(f"{name}-{flops}-{seed}"), recipe, f"{layers}x128", VALIDATION, loss, 0.5, costs, (), ())


@pytest.fixture
def lines() -> dict[str, Line]:
    runs = [run("full", 4, flops, flops, seed) for flops in (100, 200, 400) for seed in (0, 1)]
    runs += [run("large", 8, flops, as_if, seed) for flops, as_if in ((100, 180), (400, 800)) for seed in (0, 1)]
    runs += [run("grown", 4, 100, 200, seed, grows=True) for seed in (0, 1)]
    found = contenders(runs, ["full"])
    return {contender.name: judge(contender, found) for contender in found}


def test_a_larger_model_counts_where_the_table_knows_smaller_ones_alone(lines):
    grown = lines["grown"]
    assert grown.over_best is not None and grown.over_best.reading.factor == pytest.approx(2.0)
    share = math.log(200 / 180) / math.log(800 / 180)
    assert grown.over_envelope.reading.factor == pytest.approx(4**share)
    assert [line.is_size for line in lines.values()] == [True] * 5 + [False]
    assert lines["large, 400 steps"].over_envelope.reading.factor == pytest.approx(1.0)
    assert lines["full, 200 steps"].over_envelope.reading.factor == pytest.approx(4**share / 2)


def test_the_picture_tells_all_apart_without_colour(lines, tmp_path):
    looks = looks_of(lines.values())
    assert set(looks) == {"4x128", "8x128", "grown"}
    assert len({(look["marker"], look.get("markerfacecolor")) for look in looks.values()}) == 3
    draw_scaling(list(lines.values()), tmp_path)
    pixels = matplotlib.image.imread(tmp_path / "scaling.png")[..., :3]
    assert (pixels.max(axis=2) - pixels.min(axis=2)).max() == 0
    assert pixels.min() < 0.1
    assert {file.name for file in tmp_path.iterdir()} == {"scaling.png", "scaling.svg", "scaling.pdf"}
