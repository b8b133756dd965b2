"""What `compare --scale small` trains first, and what fits into some minutes."""

import pytest

from pretrain.compare.ladder import (
    CLOSE_NATS,
    LARGER,
    START_SECONDS,
    Model,
    Planned,
    comparable,
    places,
    queue,
    target_layers,
    unit_flops,
)


def ladder(*losses: float) -> dict[Planned, float]:
    return {Planned(Model(layers), 1): loss for layers, loss in zip((1, 2, 4, 8), losses, strict=False)}


def words(runs: list[Planned]) -> list[str]:
    return [f"{run.model.name}@{run.budget}/{run.seed}" for run in runs]


def test_the_most_telling_runs_come_first_and_none_comes_twice():
    runs = queue(ladder(2.0, 1.9, 1.8, 1.9), num_seeds=2)
    assert words(runs) == [
        *("small-1@1/0", "small-2@1/0", "small-4@1/0", "small-8@1/0"),
        *("small-4@2/0", "small-2@2/0", "small-hop-4@2/0"),
        *("small-4@2/1", "small-2@2/1", "small-hop-4@2/1", "small-4@1/1"),
        *("small-4@4/0", "small-2@4/0", "small-hop-4@4/0", "small-8@4/0"),
        *("small-4@4/1", "small-2@4/1", "small-hop-4@4/1"),
        *("small-4@8/0", "small-2@8/0", "small-hop-4@8/0", "small-8@8/0"),
        *("small-4@8/1", "small-2@8/1", "small-hop-4@8/1"),
        "small-2@1/1",  # its first seed is far above the best of the ladder
    ]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize(
    ("losses", "target"),
    [((2.0, 1.9, 1.8, 1.9), 4), ((1.7, 1.9, 1.8, 1.9), 2), ((2.0, 1.9, 1.8, 1.7), 8), ((2.0, 1.9, 1.8), 2), ((), 2)],
)
def test_the_target_is_the_lowest_of_the_whole_ladder_if_something_can_grow_into_it(losses, target):
    assert target_layers(ladder(*losses)) == target


def test_other_seeds_of_what_is_far_behind_come_last():
    hop = Planned(Model(2, is_grown=True), 2)
    best = {Planned(Model(2), 2): 1.5, Planned(Model(1), 2): 1.5}
    close, far = (queue(best | {hop: 1.5 + gap * CLOSE_NATS}, 3) for gap in (0.9, 1.1))
    assert words(close).index("small-hop-2@2/1") < words(close).index("small-2@4/0")
    assert words(far)[-2:] == ["small-hop-2@2/1", "small-hop-2@2/2"]
    assert sorted(words(close)) == sorted(words(far))


def test_budgets_leave_time_for_all_before_the_larger_ones():
    unit = unit_flops(3600, 1e12, least=1.0, num_seeds=3)
    runs = [run for run in queue({}, 3) if run.purpose != LARGER]
    assert sum(START_SECONDS + run.budget * unit / 1e12 for run in runs) == pytest.approx(0.95 * 3600)
    assert unit_flops(60, 1e12, least=7.0, num_seeds=3) == 7.0


def test_a_run_that_does_not_fit_leaves_its_time_to_the_next():
    runs = queue({}, 1)[:5]
    found = places(runs, dict(zip(runs, (40.0, 50.0, 0.0, 20.0, 1.0), strict=True)).__getitem__, 61.0)
    assert [place.fits for place in found] == [True, False, True, True, True]
    assert [place.run for place in found] == runs


def test_a_larger_budget_is_compared_once_it_has_seeds():
    finished = [*ladder(2.0, 1.9, 1.8, 1.9), *(Planned(Model(size), 4) for size in (2, 4)), Planned(Model(4), 4, 1)]
    assert comparable(finished, 3, layers=4) == finished[:4]
    assert comparable(finished, 1, layers=4) == finished
    finished.append(Planned(Model(2), 4, 1))
    assert comparable(finished, 3, layers=4) == finished
