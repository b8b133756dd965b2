"""The line of numbers that a user watches: speed and the time left by the FLOPs of the stages still to come."""

from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.cost import ahead
from pretrain.cost.peak import peak_flops_per_second
from pretrain.recipe import Run, resolve
from pretrain.training.events import StepResult
from pretrain.training.hooks.live_line import LiveLine, clock, how_far, in_lines
from tests.support.made_up import made_up_recipe

STAGES = [
    {"name": "small", "steps": 100, "shape": {"layers": 2}},
    {"name": "large", "steps": 100, "grow": "stack", "shape": {"layers": 4}},
]


@pytest.fixture
def run(monkeypatch) -> Run:
    """A step of the second stage costs three times as many FLOPs as one of the first."""
    monkeypatch.setattr(ahead, "stage_flops", lambda stage: 3e9 if stage.index else 1e9)
    return resolve(made_up_recipe("made-up", 200, stages=STAGES), None, 2)


def result(step: int, seconds: float) -> StepResult:
    numbers: dict[str, Any] = dict(loss=5.0, mlm_loss=5.0, mlm_accuracy=0.1, sentence_accuracy=None, lr=2e-3)
    numbers |= dict(grad_norm=0.5, tokens=step * 100, flops=step * 1e9, seconds=seconds, tokens_per_second=1234.0)
    return StepResult(step=step, stage="small", **numbers)


def line(run: Run, steps: range, is_peak_known: bool = False, **changes: Any) -> str:
    """After these steps, each of which has taken half a second."""
    live = LiveLine()
    trainer: Any = SimpleNamespace(run=run, stage=run.stages[0], **changes)
    live.on_stage(trainer)
    live.peak = 4e9 if is_peak_known else None
    live.on_event({"event": "memory", "host_memory_gib": 1.25})
    for step in steps:
        trainer.now = changes.get("now", step)
        live.on_step(trainer, result(step, step / 2))
    return live.text


def test_what_is_left_counts_by_the_flops_of_each_stage(run):
    numbers = "loss 5.000  lr 2.00e-03  gradient 0.50  1,234 tokens/s"
    assert line(run, range(20, 41)) == f"{numbers}  1.2 GiB  0:03:00 left"  # (60 + 3 x 100) GFLOP at 2 GFLOP/s
    assert line(run, range(40, 41)) == f"{numbers}  1.2 GiB", "one step has no speed yet"
    assert line(run, range(20, 41), is_peak_known=True) == f"{numbers}  25% of peak  1.2 GiB  0:03:00 left"


def test_a_run_by_the_clock_knows_what_is_left(run):
    by_the_clock: Any = SimpleNamespace(**vars(run) | {"unit": "seconds"}, end=4000.0)
    assert line(by_the_clock, range(1, 2), now=277.0).endswith("1:02:03 left")


def test_a_narrow_terminal_divides_the_line_between_its_parts():
    text = "loss 5.000  lr 2.00e-03  gradient 0.50  1,234 tokens/s  1.2 GiB  0:03:00 left"
    two = "loss 5.000  lr 2.00e-03  gradient 0.50  1,234 tokens/s\n1.2 GiB  0:03:00 left"
    assert in_lines(text, len(text)) == text
    assert in_lines(text, len(text) - 1).endswith("1.2 GiB\n0:03:00 left")
    assert in_lines(text, 59) == two


def test_how_far_a_run_is(run):
    steps: Any = SimpleNamespace(run=run, now=1_200)
    by_the_clock: Any = SimpleNamespace(run=SimpleNamespace(unit="seconds", end=10_800.0), now=70.2)
    assert (how_far(steps), how_far(by_the_clock)) == ("1,200/200", "0:01:10/3:00:00")


def test_time_and_peak():
    assert [clock(seconds) for seconds in (0, 59.6, 3723)] == ["0:00:00", "0:01:00", "1:02:03"]
    assert peak_flops_per_second("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops_per_second("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops_per_second("NVIDIA H100 80GB HBM3", "fp32") is peak_flops_per_second("Radeon", "bf16") is None
