"""What a step asks of a GPU, counted on the CPU: operators are launches, and values that the host reads are waits."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from deepspeed.accelerator import get_accelerator

from pretrain.engine import norm
from pretrain.engine.norm import gradient_norm_after_step, multi_tensor_norm
from pretrain.engine.zero import destroy
from tests.support.counting import Counting
from tests.support.harness import CONFIG, settings, start, train
from tests.support.workers import pool


def norms(stage: int, tp: int) -> list[tuple[float, float, int]]:
    """In every step: DeepSpeed's norm, ours of the same gradients, and how many operators ours takes."""
    engine = start(CONFIG, settings(tp, stage, "bf16"))
    zero = engine.optimizer
    theirs = zero.get_grad_norm_direct
    ours = multi_tensor_norm(theirs, zero.model_parallel_rank == 0)
    found = []

    def both(*arguments: Any) -> Any:
        expected = theirs(*arguments)
        with Counting() as counted:
            value = ours(*arguments)
        found.append((expected.item(), value.item(), counted.operators))
        return expected

    zero.get_grad_norm_direct = both
    train(engine, 0, 2)
    destroy(engine)
    return found


@pytest.mark.parametrize(("stage", "tp"), [(2, 2), (3, 1)])
def test_the_norm_is_deepspeeds_in_few_launches(stage, tp):
    """One for all tensors, and some for what is left: DeepSpeed takes two for each of them."""
    found = pool(2).run(norms, stage, tp)
    for own in found:
        assert own
        for expected, value, operators in own:
            assert value == pytest.approx(expected, rel=1e-6)
            assert operators <= 25


def step_counts(stage: int, layers: int) -> tuple[int, int]:
    """Operators and host reads of the second step of the optimizer, as on a GPU: with our norm."""
    with patch.object(norm, "computes_on_gpu", lambda: True):
        engine = start(CONFIG.replace(layers=layers), settings(1, stage, "bf16"))
    step, counts = engine.step, []

    def counted_step() -> None:
        with Counting() as counted:
            step()
        counts.append((counted.operators, counted.reads))

    engine.step = counted_step
    train(engine, 0, 2)
    destroy(engine)
    return counts[-1]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_deeper_model_takes_no_more_launches_and_waits_in_a_step(stage):
    (shallow,), (deep,) = (pool(1).run(step_counts, stage, layers) for layers in (1, 4))
    assert deep == shallow
    operators, reads = shallow
    assert operators <= 100 and reads <= 6, shallow


def pass_counts(stage: int, layers: int) -> tuple[int, int]:
    """Operators and host reads of the third forward and backward pass, and of what a test adds to them."""
    engine = start(CONFIG.replace(layers=layers), settings(1, stage, "bf16"))
    train(engine, 0, 2)
    step, of_step = engine.step, Counting()

    def counted_step() -> None:
        with of_step:
            step()

    engine.step = counted_step
    with Counting() as counted:
        train(engine, 2, 1)
    destroy(engine)
    return counted.operators - of_step.operators, counted.reads - of_step.reads


@pytest.mark.parametrize(("stage", "per_layer"), [(1, 60), (3, 100)])
def test_forward_and_backward_take_few_launches_for_a_layer_and_wait_for_none(stage, per_layer):
    (shallow,), (deep,) = (pool(1).run(pass_counts, stage, layers) for layers in (1, 4))
    assert (deep[0] - shallow[0]) / 3 <= per_layer
    assert deep[1] == shallow[1] <= 1  # the test reads the loss


def readers(stages: list[tuple[int, str]]) -> list[tuple[set[str], bool]]:
    """On engines of these stages and precisions, as on a GPU: who reads a value in the second step of the optimizer,
    and whether the norm that is copied before the update is DeepSpeed's."""
    found = []
    for stage, precision in stages:
        with patch.object(norm, "computes_on_gpu", lambda: True):
            engine = start(CONFIG.replace(layers=1), settings(1, stage, precision))
        train(engine, 0, 1)
        step, counted = engine.step, Counting()

        def counted_step(step=step, counted=counted) -> None:
            with counted:
                step()

        engine.step = counted_step
        train(engine, 1, 1)
        same = stage == 0 or gradient_norm_after_step(engine) == float(engine.get_global_grad_norm())
        found.append((counted.readers, same))
        destroy(engine)
    return found


def test_the_page_names_all_that_wait_in_a_step():
    page = Path("docs/performance.md").read_text("utf-8")
    (found,) = pool(1).run(readers, [(0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "bf16")])
    for names, same in found:
        assert same and names
        for name in names:
            file, function = name.split()
            assert f"`{file}`" in page and f"`{function}`" in page, name


def waits_of_timers(deepspeed: dict[str, Any]) -> int:
    """How often four steps wait until the device has done everything, through DeepSpeed's accelerator."""
    chosen = settings(1, 1, "bf16")
    engine = start(CONFIG.replace(layers=1), replace(chosen, deepspeed={**chosen.deepspeed, **deepspeed}))
    with patch.object(type(get_accelerator()), "synchronize") as waits:
        train(engine, 0, 4)
    destroy(engine)
    return waits.call_count


def test_no_timer_waits_for_the_device():
    """Unless the user's file asks for it."""
    assert pool(1).run(waits_of_timers, {}) == [0]
    assert pool(1).run(waits_of_timers, {"timers": {"throughput": {"enabled": True}}})[0] > 0


def copies_of_the_norm(stage: int) -> tuple[int, list[int]]:
    """The parameter groups of an engine as on a GPU, and how often each of three steps copies its norm."""
    with patch.object(norm, "computes_on_gpu", lambda: True):
        engine = start(CONFIG, settings(1, stage, "bf16"))
    num_groups, counts = len(engine.optimizer.param_groups), []
    for step in range(3):
        with patch.object(norm, "Readback", wraps=norm.Readback) as copy:
            train(engine, step, 1)
        counts.append(copy.call_count)
        assert gradient_norm_after_step(engine) == float(engine.get_global_grad_norm())
    destroy(engine)
    return num_groups, counts


@pytest.mark.parametrize("stage", [1, 3])
def test_a_step_copies_its_norm_once(stage):
    """Before the first group is updated: a later copy would come behind that."""
    ((num_groups, counts),) = pool(1).run(copies_of_the_norm, stage)
    assert num_groups > 1
    assert counts == [1, 1, 1]
