"""A job that fails again and again at one step is given up."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch.distributed as dist

from pretrain.engine.exits import Stop
from pretrain.launch.job import HOSTS
from pretrain.runs.folder import RunFolder
from pretrain.training.hooks import restarts
from pretrain.training.hooks.restarts import Restarts
from pretrain.training.train import train
from tests.support.tiny import tiny_recipe, train_until
from tests.support.workers import pool


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that starts the job for the Nth time, from a step; gives how to leave it in order."""

    def together(error):
        if error:
            raise Stop(str(error))

    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(restarts, "raise_together", together)

    def begin(restart: int, step: int, job: str = "7"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        hook = Restarts(RunFolder(tmp_path), limit=2)
        trainer = SimpleNamespace(progress=SimpleNamespace(step=step))
        hook.on_start(trainer)
        return lambda: hook.on_leave(trainer)

    return begin


def test_a_job_that_gains_nothing_is_given_up(start):
    for restart in range(3):
        start(restart, step=40)
    with pytest.raises(Stop, match="job 7 failed 3 times in a row without a checkpoint after step 40, more often than"):
        start(3, step=40)
    start(0, step=40, job="8")  # whoever submits it again has a reason


def test_a_step_gained_or_an_orderly_end_counts_afresh(start):
    for restart, step in enumerate([40, 40, 40, 44, 44, 44]):
        leave = start(restart, step)
    leave()
    for restart in range(6, 9):
        start(restart, step=44)
    with pytest.raises(Stop, match="failed 3 times"):
        start(9, step=44)


def test_going_back_to_a_checkpoint_is_the_same_start(start):
    for _ in range(5):
        start(0, step=40)()


def test_a_start_that_went_back_and_then_failed_counts_as_failed(start):
    for restart in range(3):
        start(restart, step=40)()  # a rollback
        start(restart, step=40)  # ... after which it hangs
    with pytest.raises(Stop, match="failed 3 times"):
        start(3, step=40)


def test_a_refused_start_leaves_the_record_as_it_is(start, tmp_path, monkeypatch):
    for restart in range(3):
        start(restart, step=40)
    record = RunFolder(tmp_path).starts.read_text("utf-8")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    hook = Restarts(RunFolder(tmp_path), limit=2)
    with pytest.raises(Stop):
        hook.on_start(SimpleNamespace(progress=SimpleNamespace(step=40)))
    hook.on_leave(SimpleNamespace())
    assert RunFolder(tmp_path).starts.read_text("utf-8") == record


def test_a_damaged_record_stops_nothing(start, tmp_path):
    RunFolder(tmp_path).starts.write_text("[{", "utf-8")
    start(0, step=40)


def refused(corpus: Path, folder: Path) -> str:
    """On a rank, in a job that has failed too often: why `train` stops."""
    train_until(tiny_recipe(corpus), folder, 4)
    if dist.get_rank() == 0:
        failed = [{"job": "7", "restart": restart, "step": 4, "in_order": False} for restart in range(4)]
        RunFolder(folder).starts.write_text(json.dumps(failed), "utf-8")
    with patch.dict(os.environ, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="4"), pytest.raises(Stop) as stopped:
        train(tiny_recipe(corpus), folder)
    return str(stopped.value)


def test_the_run_says_why_it_gives_up(corpus, tmp_path):
    for message in pool(2).run(refused, corpus, tmp_path / "run"):
        assert message.startswith("job 7 failed 4 times in a row")


def test_hosts_that_meet_without_slurm_are_a_job(tmp_path, monkeypatch, start):
    monkeypatch.setattr(restarts, "job_name", lambda: "first:29400")
    for _ in range(2):
        start(0, step=40)
    assert [line["job"] for line in json.loads((tmp_path / "starts.json").read_text("utf-8"))] == ["first:29400"]


def test_outside_a_job_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv(HOSTS, raising=False)
    Restarts(RunFolder(tmp_path), limit=2).on_start(SimpleNamespace(progress=SimpleNamespace(step=4)))
    assert list(tmp_path.iterdir()) == []
