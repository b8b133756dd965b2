"""DeepSpeed's step without its unused work: same results, non-finite gradients are found, and it is still needed."""

from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from pretrain.engine import build
from pretrain.engine.exchange import read_state
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, settings, start, train, whole_state
from tests.support.workers import pool


def as_deepspeed_does_it():
    return patch.object(build, "skip_unused_work", lambda engine: None)


def trained(tp: int, stage: int, precision: str, accumulation: int, whole: bool) -> tuple:
    with as_deepspeed_does_it() if whole else nullcontext():
        engine = start(CONFIG, settings(tp, stage, precision, accumulation))
    losses = train(engine, 0, 4)
    norm = float(engine.get_global_grad_norm())
    state = {name: record.weight.numpy() for name, record in whole_state(read_state(engine)).items()}
    destroy(engine)
    return losses, norm, state


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("tp", "stage", "precision"), [(2, 1, "bf16"), (2, 1, "fp32"), (1, 1, "bf16"), (1, 2, "bf16")])
def test_the_results_are_the_same_to_the_bit(tp, stage, precision, accumulation):
    for (losses, norm, state), whole in zip(
        pool(2).run(trained, tp, stage, precision, accumulation, False),
        pool(2).run(trained, tp, stage, precision, accumulation, True),
        strict=True,
    ):
        assert (losses, norm) == whole[:2]
        assert all((state[name] == whole[2][name]).all() for name in state)


def steps_skipped(tp: int, stage: int, precision: str, value: float) -> tuple[int, bool]:
    """After one step with one gradient element that is not finite, on rank 1 only; and whether the weights are."""
    engine = start(CONFIG, settings(tp, stage, precision))
    if dist.get_rank() == 1:
        weight = engine.module.blocks[1].feedforward.input.weight
        weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor(3), value))
    train(engine, 0, 1)
    skipped = engine.skipped_steps, all(weight.isfinite().all() for weight in engine.module.parameters())
    destroy(engine)
    return skipped


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize(("tp", "stage", "precision"), [(2, 1, "bf16"), (1, 1, "fp32"), (1, 2, "bf16")])
def test_a_step_that_is_not_finite_is_skipped_on_every_rank(tp, stage, precision, value):
    assert pool(2).run(steps_skipped, tp, stage, precision, value) == [(1, True)] * 2


def work_left(whole: bool) -> tuple[bool, bool]:
    """Whether one data-parallel rank copies gradients out of a bucket, and searches them before it takes their norm."""
    with as_deepspeed_does_it() if whole else nullcontext():
        engine = start(CONFIG, settings(tp=2, stage=1, precision="bf16"))
    zero = engine.optimizer
    with (
        patch.object(zero, "copy_grads_in_partition", wraps=zero.copy_grads_in_partition) as copy,
        patch.object(zero, "has_overflow", wraps=zero.has_overflow) as search,
    ):
        train(engine, 0, 1)
    destroy(engine)
    return copy.called, search.called


def test_deepspeed_still_does_unused_work():
    """When this fails, DeepSpeed has mended it: remove that part of `pretrain.engine.unused`."""
    assert pool(2).run(work_left, True) == [(True, True)] * 2
    assert pool(2).run(work_left, False) == [(False, False)] * 2
