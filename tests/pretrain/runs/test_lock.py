"""Who may train in a run's folder while another process holds it."""

import fcntl
import os
import subprocess
import sys
import time

import pytest

from model.errors import UserError
from pretrain.runs.folder import RunFolder
from tests.support.tiny import tiny_recipe

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(sys.argv[2])
file.flush()
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def held(tmp_path):
    """A function that makes another process hold the folder for some seconds."""
    processes = []

    def hold(text: str, seconds: float) -> RunFolder:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock"), text, str(seconds)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        processes[-1].stdout.readline()
        return RunFolder(tmp_path)

    yield hold
    for process in processes:
        process.kill()
        process.wait()


def test_a_requeued_job_waits_for_the_start_before_it(held, corpus, monkeypatch, capfd):
    """However long that lives: its node may be cut off from SLURM, but not from the disk."""
    monkeypatch.setattr("pretrain.runs.folder.LOCK_SECONDS", 0.2)
    monkeypatch.setenv("SLURM_JOB_ID", "71234")
    folder = held("process 9 on node1, since today, job 71234", 3)
    start = time.monotonic()
    folder.check(tiny_recipe(corpus))
    assert time.monotonic() - start > 2
    said = capfd.readouterr().err
    assert said.count("an earlier start of this job is still active") == 1
    assert "process 9 on node1" in said


@pytest.mark.parametrize("job", ["7123", "1234", None])
def test_another_job_is_refused(held, corpus, monkeypatch, job):
    monkeypatch.setattr("pretrain.runs.folder.LOCK_SECONDS", 0.2)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    folder = held("process 9 on node1, since today, job 71234", 60)
    with pytest.raises(UserError, match="a run is active in .*process 9 on node1"):
        folder.check(tiny_recipe(corpus))


def test_a_folder_that_nobody_holds_is_free(corpus, tmp_path):
    (tmp_path / "lock").write_text("process 9 on node1, since today, job 71234")
    RunFolder(tmp_path).check(tiny_recipe(corpus))
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert os.listdir(tmp_path) == ["lock"]
