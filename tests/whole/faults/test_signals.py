"""A signal at any moment: the run is saved at the next step, exits with the code for `again`, and can go on."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist

from pretrain.engine import signals
from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode
from pretrain.recipe import Recipe
from pretrain.runs.history import History
from pretrain.training.train import train
from tests.support.launching import Launched, kill
from tests.support.tiny import tiny_recipe, write_recipe
from tests.support.workers import pool

pytestmark = pytest.mark.timeout(900)  # many processes start, and machines differ


def test_a_signal_saves_the_run_and_asks_for_another_start(corpus, tmp_path):
    """SIGTERM to the launcher before there is any rank that could hear it; then SIGUSR1 to one rank of the run that
    goes on."""
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus)
    with Launched(recipe, tmp_path / "runs") as run:
        while not run.torchrun():
            time.sleep(0.05)
        kill(run.process.pid, signal.SIGTERM)
        step = saved_step(run, tmp_path)
    with Launched(recipe, tmp_path / "runs") as run:
        run.wait_for("stage untied")
        kill(run.ranks()[-1], signal.SIGUSR1)
        assert step < saved_step(run, tmp_path) < 30
        assert f"resumed at step {step}" in run.text()
    first, second = History.read(tmp_path / "runs" / "tiny").events("start_up")
    assert (first["step"], second["step"]) == (1, step + 1)
    parts = {"launch", "imports", "rendezvous", "corpus", "build", "first_step"}
    assert parts <= set(first) and parts | {"checkpoint"} <= set(second)
    assert 0 < sum(first[part] for part in parts) < first["seconds"]


def saved_step(run: Launched, folder: Path) -> int:
    """Of a run that has to end with the code for `again`."""
    assert run.wait() == ExitCode.PREEMPTED, run.text()
    text = run.text()
    assert "Traceback" not in text and "FAILED" not in text
    checkpoints = folder / "runs" / "tiny" / "checkpoints"
    saved = checkpoints / (checkpoints / "latest").read_text().strip()
    step = json.loads((saved / "index.json").read_text())["run"]["progress"]["step"]
    assert f"received: saved at step {step};" in text
    return step


def train_signalled_in(recipe: Recipe, folder: Path, place: str) -> str:
    """The last rank gets a real SIGUSR1 as it enters `place` for the first time. What all ranks stop with."""
    module, _, name = place.rpartition(".")
    entered = getattr(sys.modules[module], name)
    calls = []

    def enter(*arguments, **options):
        calls.append(name)
        if len(calls) == 1 and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return entered(*arguments, **options)

    handlers = {name: signal.getsignal(signal.Signals[name]) for name in signals.ASKING}
    signals.listen(["SIGUSR1"])
    try:
        with patch(place, enter), pytest.raises(Stop) as stopped:
            train(recipe, folder)
    finally:
        signals.received = None
        for name, handler in handlers.items():
            signal.signal(signal.Signals[name], handler)
    assert stopped.value.code == ExitCode.PREEMPTED
    return str(stopped.value)


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("pretrain.training.trainer.evaluate", 1),
        ("pretrain.training.stages.move", 11),
        ("pretrain.training.hooks.checkpoints.read_state", 4),
    ],
    ids=["evaluation", "growth", "checkpointing"],
)
def test_a_signal_during_other_things_is_heard_at_the_next_boundary(corpus, tmp_path, place, step):
    for message in pool(2).run(train_signalled_in, tiny_recipe(corpus), tmp_path / "run", place):
        assert f"received: saved at step {step};" in message
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == f"step-{step:08d}\n"
