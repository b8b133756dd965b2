"""10 steps follow the unsharded trajectory under any ZeRO stage and tensor parallelism.

In fp32: DeepSpeed refuses to sum float64 gradients at any stage. `test_partition.py` proves the same without it.
"""

from functools import cache

import numpy as np
import pytest

from growth.state import Record
from model.parameters import parameter_table
from pretrain.engine.exchange import read_state
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, start, train, whole_state
from tests.support.optim_reference import Reference
from tests.support.sharded import OPTIONS, optimizer_settings
from tests.support.workers import pool

STEPS = 10
LR = OPTIONS["stableadamw"]["lr"]
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


def in_step_with_numpy(tp: int, stage: int, precision: str = "fp32") -> tuple[list[float], float, float]:
    """The losses, how far the last step is from numpy's on whole parameters (of the learning rate), and the largest
    root mean square by which it was clipped."""
    engine = start(CONFIG, optimizer_settings("stableadamw", tp, stage, precision))
    found = train(engine, 0, STEPS - 1, LR)
    before = whole_state(read_state(engine))
    found += train(engine, STEPS - 1, 1, LR)
    after = whole_state(read_state(engine))
    destroy(engine)
    return found, *stableadamw_error(before, after)


def stableadamw_error(before: dict[str, Record], after: dict[str, Record]) -> tuple[float, float]:
    error = largest = 0.0
    decayed = {name for name, spec in parameter_table(CONFIG).items() if spec.decay}
    for name, old in before.items():
        reference = Reference({name: old.weight.numpy()}, LR, 0.9, 0.98, 1e-6, 0.1, decayed, set())
        reference.m[name], reference.v[name] = old.exp_avg.double().numpy(), old.exp_avg_sq.double().numpy()
        reference.t = old.step
        g = (after[name].exp_avg.double().numpy() - 0.9 * reference.m[name]) / 0.1
        largest = max(largest, reference.stableadamw({name: g})[name])
        error = max(error, np.abs(after[name].weight.double().numpy() - reference.w[name]).max() / LR)
    return error, largest


@pytest.mark.parametrize(("ranks", "tp", "stage"), [(2, 2, 0), (2, 1, 1), (4, 2, 2), (2, 1, 3), (4, 2, 3)])
def test_stableadamw_clips_by_the_whole_tensor(ranks, tp, stage):
    """The norm of a shard is another, and the padding of the vocabulary does not count."""
    for found, error, largest in pool(ranks).run(in_step_with_numpy, tp, stage):
        assert found == pytest.approx(unsharded("stableadamw"), rel=1e-6)
        assert error < 1e-3
        assert largest > 1.1, "nothing was clipped"


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
