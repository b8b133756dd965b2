"""10 steps follow the unsharded trajectory under any ZeRO stage and tensor parallelism.

In fp32: DeepSpeed refuses to sum float64 gradients at any stage. `test_partition.py` proves the same without it.
"""

from functools import cache

import pytest

from pretrain.engine.exchange import read_state
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, start, train, whole_state
from tests.support.sharded import OPTIONS, optimizer_settings
from tests.support.workers import pool

STEPS = 10
LAYOUTS = ((1, 1), (2, 1), (4, 2), (2, 2))
"""(ranks, tensor-parallel size). Those with data parallelism are of both optimizers at every stage."""
CELLS = [
    pytest.param(ranks, tp, stage, name, id=f"{ranks}ranks-tp{tp}-{stage}-{name}")
    for number, (ranks, tp) in enumerate(LAYOUTS)
    for stage in (0, 1, 2, 3)
    for name in ("lamb", "lans")
    if (number + stage) % 2 == (name == "lans")
]


def losses(name: str, tp: int, stage: int, zero: dict | None = None) -> list[float]:
    engine = start(CONFIG, optimizer_settings(name, tp, stage, **(zero or {})))
    result = train(engine, 0, STEPS, OPTIONS[name]["lr"])
    destroy(engine)
    return result


@cache
def unsharded(name: str) -> list[float]:
    return pool(1).run(losses, name, 1, 0)[0]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_adamw_follows_the_unsharded_trajectory(stage):
    for found in pool(2).run(losses, "adamw", 1, stage):
        assert found == pytest.approx(unsharded("adamw"), rel=1e-6)


@pytest.mark.parametrize(("ranks", "tp", "stage", "name"), CELLS)
def test_fp32_follows_the_unsharded_trajectory(ranks, tp, stage, name):
    for found in pool(ranks).run(losses, name, tp, stage):
        assert found == pytest.approx(unsharded(name), rel=1e-6)


def test_the_trajectories_tell_optimizers_apart():
    lamb, lans, adamw = (unsharded(name) for name in ("lamb", "lans", "adamw"))
    for one, other in ((lamb, lans), (lamb, adamw), (lans, adamw)):
        assert one[0] == other[0]
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1e-2


@pytest.mark.parametrize(("ranks", "tp", "stage"), [(2, 2, 0), (2, 1, 2), (4, 2, 3)])
def test_a_global_norm_of_all_gradients_too(ranks, tp, stage):
    """NVLAMB, with sub-groups so small that ZeRO 3 steps many times for one step."""
    small = {"sub_group_size": 5000} if stage == 3 else {}
    for found in pool(ranks).run(losses, "nvlamb", tp, stage, small):
        assert found == pytest.approx(unsharded("nvlamb"), rel=1e-6)


def sums_of_squares(name: str, tp: int, stage: int) -> dict[str, float]:
    engine = start(CONFIG, optimizer_settings(name, tp, stage))
    train(engine, 0, 5, OPTIONS[name]["lr"])
    state = whole_state(read_state(engine))
    destroy(engine)
    return {key: record.exp_avg_sq.sum().item() for key, record in state.items()}


@pytest.mark.parametrize(("ranks", "tp", "stage"), [(2, 2, 0), (2, 2, 1), (2, 1, 3)])
def test_copies_of_a_parameter_count_once(ranks, tp, stage):
    """Averages of unit gradients sum to 1 - beta2^step. Weights hardly tell: trust ratios forgive a common factor."""
    expected = pytest.approx(1 - 0.98**5, rel=1e-4)
    for found in pool(ranks).run(sums_of_squares, "lans", tp, stage):
        assert all(value == expected for value in found.values()), found
    for found in pool(ranks).run(sums_of_squares, "nvlamb", tp, stage):
        assert sum(found.values()) == expected
