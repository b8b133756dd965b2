"""A start that was frozen as it was about to finish something, while a newer one went on with the run."""

import os
import signal
import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from pretrain.checkpoint import find_checkpoint, read_index
from pretrain.checkpoint.files import find_damage
from pretrain.lease import read_leases
from pretrain.recipe import Recipe
from pretrain.training.train import train
from tests.support.tiny import tiny_recipe, train_until
from tests.support.workers import pool


def train_until_frozen(recipe: Recipe, folder: Path, log: Path, name: str) -> None:
    """Freezes its process between the last look for a newer start and the moment at which `name` gets its name."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    replace, frozen = Path.replace, []

    def replacing(self: Path, target: Path) -> Path:
        if target.name == name and not frozen:
            frozen.append(name)
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1)  # this thread may not be the first to stop
        return replace(self, target)

    with (
        patch.object(Path, "replace", replacing),
        patch("pretrain.lease.record.LEASE_SECONDS", 1.0),
        patch("pretrain.lease.start.RENEWAL_SECONDS", 3600.0),  # else the thread that renews ends the process first
    ):
        train(recipe, folder)


@pytest.mark.parametrize(("name", "writer"), [("step-00000004", 2), ("latest", 1)])
def test_the_newer_state_stands_and_the_older_start_ends_in_one_line(corpus, tmp_path, name, writer):
    """`writer`: the start whose checkpoint of step 4 stands. In the second case the newer one goes on from it."""
    recipe, run, log = tiny_recipe(corpus), tmp_path / "run", tmp_path / "log"
    pool(1).run(os.getpid)  # starts it
    process = pool(1)._ranks[0][0]
    failures: list[AssertionError] = []
    older = threading.Thread(target=run_older, args=(recipe, run, log, name, failures))
    older.start()
    try:
        wait_until_frozen(process.pid)
        pool(2).run(train_until, recipe, run, 8)
        written = (run / "metrics.jsonl").read_bytes()
        os.kill(process.pid, signal.SIGCONT)
        older.join(120)
    finally:
        process.kill()
        older.join()
    assert process.exitcode == 2
    said = [line for line in log.read_text().splitlines() if line.startswith("espalier:")]
    assert len(said) == 1
    assert f"the run in {run} was taken over (start 2, " in said[0]
    assert said[0].endswith("; start 1 stops")
    assert (run / "metrics.jsonl").read_bytes() == written
    assert (run / "checkpoints" / "latest").read_text() == "step-00000008\n"
    assert find_checkpoint(run).name == "step-00000008"
    checkpoints = [run / "checkpoints" / f"step-{step:08d}" for step in (4, 8)]
    assert [read_index(checkpoint)["run"]["start"] for checkpoint in checkpoints] == [writer, 2]
    assert [find_damage(checkpoint) for checkpoint in checkpoints] == [None, None]
    assert [lease.began_at for lease in read_leases(run / "leases")] == [0, 4 if writer == 1 else 0]


def run_older(recipe: Recipe, run: Path, log: Path, name: str, failures: list[AssertionError]) -> None:
    try:
        pool(1).run(train_until_frozen, recipe, run, log, name)
    except AssertionError as failure:  # its process has ended
        failures.append(failure)


def wait_until_frozen(pid: int) -> None:
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.05)
