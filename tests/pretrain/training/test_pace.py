"""Checkpoints by the clock: all ranks save at the same step, and training is the same."""

import time

import pytest

from pretrain.runs.history import History
from pretrain.training import pace
from pretrain.training.pace import Pace
from pretrain.training.train import train
from tests.support.tiny import losses, tiny_recipe
from tests.support.workers import pool


@pytest.mark.parametrize("step_seconds", [0.3, 7.0, 1000.0])
def test_a_span_is_over_at_the_first_step_after_it_and_few_messages_tell(monkeypatch, step_seconds):
    clock, asked = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(pace, "from_rank_0", lambda value: asked.append(value) or value)
    span = Pace(600)
    span.begin(100)
    for step in range(101, 5000):
        clock[0] += step_seconds
        if span.is_over(step):
            break
    assert clock[0] - max(step_seconds, 1) < 600 <= clock[0]
    assert len(asked) <= 14


def test_a_run_saves_by_the_clock_of_rank_0(corpus, tmp_path):
    stages = [{"name": "a", "steps": 6}]
    for name, minutes in (("never", 0), ("always", 1e-6)):
        recipe = tiny_recipe(corpus, stages=stages, checkpoint={"minutes": minutes})
        pool(2).run(train, recipe, tmp_path / name)
    saved = [event["name"] for event in History.read(tmp_path / "always").events("checkpoint")]
    assert saved == [f"step-{step:08d}" for step in range(1, 7)]
    assert losses(tmp_path / "always") == losses(tmp_path / "never")
    assert len(History.read(tmp_path / "never").events("checkpoint")) == 1
