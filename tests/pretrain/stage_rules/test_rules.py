"""Each rule decides from recorded numbers alone: fed made-up ones, it holds when it should and not before."""

import json
import math

import pytest
import torch

from pretrain.recipe import Recipe, Run, resolve
from pretrain.stage_rules.auto import falls_per_flop, next_stage_pays
from pretrain.stage_rules.base import STAGE, count_agreement, item_from_json, item_to_json
from pretrain.stage_rules.curve import LossCurve, Point, fall_per_efold, slope
from pretrain.stage_rules.gradient_correlation import most_are_below
from pretrain.stage_rules.split import split_groups
from pretrain.stage_rules.ticket_distance import changed_part, draw, shown, ticket_from_json, ticket_to_json
from pretrain.stage_rules.until import watch_stage
from pretrain.training.events import StepResult
from tests.support.stage_rules import make_believe

FLOPS = 1e9
"""Of a step."""


def checks_that_end(holds: list[set[str]], checks: int) -> list[int]:
    """At which checks (from 1) something has held often enough."""
    counts: dict[str, int] = {}
    ends = []
    for number, each in enumerate(holds, start=1):
        counts = count_agreement(counts, each)
        if any(count >= checks for count in counts.values()):
            ends.append(number)
    return ends


def test_correlations_of_0_9_then_0_1_unshare_at_the_third_low_check():
    correlations = [{(layer, layer + 1): value for layer in range(23)} for value in (0.9, 0.9, 0.1, 0.1, 0.1)]
    holds = [{STAGE} if most_are_below(each, 0.5) else set() for each in correlations]
    assert checks_that_end(holds, checks=3) == [5]


def test_a_high_check_starts_the_count_again():
    low, high = {STAGE}, set()
    assert checks_that_end([low, low, high, low, low, low, low], checks=3) == [6, 7]


def test_more_than_half_of_the_pairs_have_to_be_low():
    half = {(0, 1): 0.1, (1, 2): 0.1, (2, 3): 0.9, (3, 4): 0.9}
    assert not most_are_below(half, 0.5)
    assert most_are_below(half | {(4, 5): 0.49}, 0.5)
    assert not most_are_below({}, 0.5)


@pytest.mark.parametrize(
    ("blocks", "after", "expected"),
    [
        ([0, 0, 0, 0], {1}, [0, 0, 1, 1]),
        ([0, 0, 0, 0], {0, 1}, [0, 1, 2, 2]),
        ([0, 0, 1, 1], {0}, [0, 1, 2, 2]),
        ([0, 0, 0], {0, 1}, [0, 1, 2]),
        ([0, 1, 0, 1, 0, 1], {2}, [0, 1, 0, 1, 2, 1]),  # units of two layers: 2 and 4 are neighbours
    ],
)
def test_a_group_splits_where_its_neighbours_are_apart(blocks, after, expected):
    assert split_groups(blocks, after) == expected


def test_pairs_of_layers_are_text_in_json_alone():
    assert [item_to_json(item) for item in (STAGE, (3, 14))] == ["stage", "3-14"]
    assert [item_from_json(text) for text in ("stage", "3-14")] == [STAGE, (3, 14)]


def test_slope_is_that_of_least_squares():
    x, y = torch.randn(2, 20, dtype=torch.float64).tolist()
    design = torch.tensor([x, [1.0] * 20], dtype=torch.float64).T
    expected = torch.linalg.lstsq(design, torch.tensor(y, dtype=torch.float64)[:, None]).solution[0].item()
    assert slope(x, y) == pytest.approx(expected, abs=1e-12)


def test_a_point_of_the_curve_is_the_mean_of_its_steps():
    curve, again = LossCurve(every=2), LossCurve(every=2)
    for step in range(1, 4):
        curve.add(step, 10.0 * step)
    again.restore(json.loads(json.dumps(curve.state())))
    for each in (curve, again):
        each.add(4, 60.0)
        assert each.points == [Point(1.5, 15.0), Point(3.5, 45.0)]


def test_fall_per_efold_is_that_of_the_last_third():
    points = [Point(math.exp(x), 5 - 0.5 * x) for x in range(6)] + [Point(math.exp(x), -0.07 * x) for x in range(6, 9)]
    assert fall_per_efold(points, window=2) == pytest.approx(0.07)
    assert fall_per_efold(points[:5], window=2) == pytest.approx(0.5)
    assert fall_per_efold(points, window=9) > 0.5


def test_falls_per_flop():
    """On 10 - 2 log(F) the loss falls by 2 / F a FLOP."""
    points = [Point(flops, 10 - 2 * math.log(flops)) for flops in range(10, 101, 10)]
    assert falls_per_flop(points, window=3) == pytest.approx((2 / 100, 2 * math.log(10) / 90))


@pytest.mark.parametrize(
    ("now", "mean", "ratio", "gain", "pays"),
    [
        (0.5, 1.0, 2.0, 1.0, False),  # equal: stay
        (0.49, 1.0, 2.0, 1.0, True),
        (0.49, 1.0, 4.0, 1.0, False),  # the next stage costs too much
        (0.49, 1.0, 4.0, 2.0, True),
        (1.0, 1.0, 2.0, 1.0, False),  # as fast as ever
        (0.9, 1.0, 1.0, 1.0, True),  # it costs nothing more
        (0.0, -1.0, 9.0, 1.0, True),
    ],
)
def test_the_next_stage_pays_when_a_flop_buys_more_there(now, mean, ratio, gain, pays):
    assert next_stage_pays(now, mean, ratio, gain) == pays


STEPS = 10_000


def resolved(until, stages=({"grow": "stack", "shape": {"layers": 24}},), model={"preset": "base"}) -> Run:  # noqa: B006
    """Warmup ends at step 100, the first stage at half of the run."""
    values = {
        "name": "synthetic",
        "steps": STEPS,
        "model": model,
        "data": {"corpus": "none"},
        "optimizer": {"lr": 1e-3},
        "schedule": {"warmup": 100},
        "batch": {"global": 8},
        "stages": [
            {"name": "first", "steps": STEPS // 2, "until": until},
            *({"name": f"next{index}", **stage} for index, stage in enumerate(stages)),
        ],
    }
    return resolve(Recipe.model_validate(values), None, 1)


def steps_of(until, loss, *stages) -> int | None:
    """How many steps the first stage of a run takes when the loss after step t is `loss(t)`."""
    run = resolved(until, *([stages] if stages else []))
    training = make_believe(run)
    (watch,) = watch_stage(training)
    counts: dict[str, int] = {}
    for step in range(1, STEPS // 2):
        training.progress.step = training.now = step
        training.progress.num_tokens += 1000
        training.progress.train_seconds += 36
        watch.see(training, StepResult(step, "first", loss(step), 0, 0, None, 0, 0, 0, FLOPS * step, 0, 0))
        if watch.is_due:
            counts = count_agreement(counts, watch.check(training).holds)
            if max(counts.values(), default=0) >= watch.checks:
                return step
    return None


def noise(step: int) -> float:
    return 0.05 * math.sin(12.9898 * step * step)


def test_auto_on_a_logarithm_ends_at_the_multiple_that_its_page_states():
    """Warmup ends at 100: 4.9 times as late for a stage of about twice the cost."""
    fine = {"auto": {"every": 5, "window": 4, "checks": 1}}
    doubled = steps_of(fine, lambda step: 9 - math.log(step))
    assert doubled == pytest.approx(4.92 * 102.5, rel=0.12)  # the head is not doubled, and the window lags
    quadrupled = steps_of(fine, lambda step: 9 - math.log(step), {"grow": "stack", "shape": {"layers": 48}})
    assert quadrupled > 6 * doubled
    cheap = steps_of(fine, lambda step: 9 - math.log(step), {"sequence": 128})
    assert cheap == 100 + 5 * 5  # nothing to pay: as soon as there are points enough


def test_auto_does_not_mind_noise():
    until = {"auto": {"every": 50, "window": 5}}
    smooth = steps_of(until, lambda step: 9 - math.log(step))
    noisy = steps_of(until, lambda step: 9 - math.log(step) + noise(step))
    assert abs(noisy - smooth) <= 100


def test_auto_goes_on_while_the_loss_falls_as_fast_as_ever():
    assert steps_of("auto", lambda step: 10 - 1e-3 * step + noise(step)) is None


def test_auto_leaves_a_plateau_unless_told_what_is_one():
    assert steps_of("auto", lambda step: 7.0) == 100 + 7 * 100
    assert steps_of({"auto": {"loss_below": 6}}, lambda step: 7.0) is None
    assert steps_of({"auto": {"least": 2000}}, lambda step: 7.0) == 100 + 2100


def test_loss_slope_ends_where_the_curve_flattens():
    def loss(step: int) -> float:
        return 8 - 0.2 * math.log(step) if step < 2000 else 8 - 0.2 * math.log(2000) - 0.02 * math.log(step / 2000)

    until = {"loss_slope": {"below": 0.05, "every": 100, "window": 5, "checks": 1}}
    assert 2000 < steps_of(until, loss) <= 2700  # once the flat part is half of the last third
    assert steps_of(until, lambda step: 8 - 0.2 * math.log(step)) is None


def test_loss_tokens_and_hours():
    assert steps_of({"tokens": 123_456}, lambda step: 0) == 124
    assert steps_of({"hours": 1.5}, lambda step: 0) == 150
    assert steps_of({"loss": {"below": 4.0, "every": 10}}, lambda step: 5 - step / 100) == 110
    assert steps_of({"loss": {"below": 4.0, "every": 10, "checks": 3}}, lambda step: 5 - step / 100) == 130


def test_a_ticket_is_shown_by_head_and_by_the_part_of_the_neurons():
    held = {"heads 0": "10", "heads 1": "11", "ffn 0": "1101"}
    ticket = ticket_from_json(held)
    assert ticket["ffn", 0] == (True, True, False, True)
    assert ticket_to_json(ticket) == held, "as checkpoints have it"
    assert shown(ticket) == {"heads": {"0": [1, 0], "1": [1, 1]}, "ffn": {"0": 0.75}}


EARLY = {
    "model": {"preset": "tiny", "heads": 2, "ffn": 4, "slimming": {}},
    "stages": [{"grow": ["prune_heads", {"prune_neurons": {"quota": "global"}}], "shape": {"heads": 1, "ffn": 2}}],
}


def test_the_ticket_is_what_the_next_stage_would_prune():
    run = resolved("ticket_distance", **EARLY)
    scores = [
        (0.9, 1.0, 0.5, 0.5, 0.6, 0.7),
        (1.0, 0.2, 0.1, 0.1, 0.1, 0.9),
    ]  # two heads and four neurons of each layer

    def drawn():
        held = {}
        for block, each in enumerate(scores):
            held[f"blocks.{block}.attention.coefficients"] = torch.tensor(each[:2])
            held[f"blocks.{block}.feedforward.coefficients"] = torch.tensor(each[2:])
        return draw(run.stages[0].config, run.stages[1], held)

    first = drawn()
    assert ticket_to_json(first) == {"heads 0": "01", "heads 1": "10", "ffn 0": "1011", "ffn 1": "0001"}
    scores[0] = (1.1, *scores[0][1:])
    scores[1] = (*scores[1][:4], 2.0, 0.9)
    second = drawn()
    assert ticket_to_json(second) == {"heads 0": "10", "heads 1": "10", "ffn 0": "0011", "ffn 1": "0011"}
    assert changed_part(first, second) == 4 / 12
