"""Who may train in a run's folder: another start holds it, held it, or is frozen."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.errors import UserError
from pretrain.launch.job import HOSTS
from pretrain.lease import Lease, hold, newest_lease, record, wait_until_free, watch
from pretrain.lease.record import lease_of_this_process
from tests.support.launching import HOME

HOLDER = """
import signal, sys, time
from pathlib import Path
from pretrain.lease import Start, record, start
folder, seconds, lease_seconds, is_elsewhere = sys.argv[1:]
start.RENEWAL_SECONDS, record.LEASE_SECONDS = 0.1, float(lease_seconds)
if is_elsewhere == "True":
    record._machine = lambda: "another machine"
held = Start.claim(Path(folder), 1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(held.end()))
print("held", flush=True)
time.sleep(float(seconds))
held.end()
"""


@pytest.fixture
def leases(tmp_path, monkeypatch) -> Path:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID", HOSTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pretrain.lease.watch.POLL_SECONDS", 0.05)
    monkeypatch.setattr("pretrain.lease.watch.SILENT_SECONDS", 0.2)
    return tmp_path / "leases"


@pytest.fixture
def held(leases):
    """A function that makes another process hold the folder for some seconds, in a job or not."""
    processes = []

    def hold(seconds: float, lease_seconds: float = 60.0, is_elsewhere: bool = True, **job: str) -> int:
        environment = {**os.environ, "PYTHONPATH": str(HOME), **{f"SLURM_{name}": value for name, value in job.items()}}
        command = [sys.executable, "-c", HOLDER, *map(str, (leases, seconds, lease_seconds, is_elsewhere))]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment))
        assert processes[-1].stdout.readline() == b"held\n"
        return processes[-1].pid

    yield hold
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("job", ["7123", "1234", None])
def test_another_job_that_is_alive_is_refused(held, leases, monkeypatch, job):
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    process = held(60, JOB_ID="71234", STEP_ID="0")
    node = os.uname().nodename
    told = rf"a run is active in .* \(start 1, process {process} on {node}, .*, job 71234, step 0\); wait for it"
    with pytest.raises(UserError, match=told):
        wait_until_free(leases)


def test_a_requeued_job_waits_for_the_start_before_it_and_asks_it_to_leave(held, leases, monkeypatch, capfd):
    """Which may be cut off from SLURM, but not from the disk, and alone on its node, so that it misses nobody."""
    monkeypatch.setenv("SLURM_JOB_ID", "71234")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held(600, JOB_ID="71234", RESTART_COUNT="0")
    assert wait_until_free(leases) == 1
    assert newest_lease(leases).ended
    said = capfd.readouterr().err
    assert said.count("an earlier start of this job is still active") == 1
    assert said.count("which waits for the run: start 1 leaves") == 1


def test_two_steps_of_a_job_in_one_folder_are_told(held, leases, monkeypatch, capfd):
    monkeypatch.setenv("SLURM_JOB_ID", "71234")
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    held(3, JOB_ID="71234", STEP_ID="0")
    assert wait_until_free(leases) == 1
    said = capfd.readouterr().err
    assert "another start of this job is active" in said
    assert "give one of them another --name" in said


def test_hosts_that_meet_without_slurm_wait_for_each_other(leases, monkeypatch):
    monkeypatch.setenv(HOSTS, "first:29400")
    lease = lease_of_this_process(3)
    assert watch._is_of_this_job(lease)
    assert "an earlier start of this job is still active in run" in watch._why_it_waits(lease, True, Path("run"))
    monkeypatch.setenv(HOSTS, "other:29400")
    assert not watch._is_of_this_job(lease)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_lease_that_stands_still_is_waited_out(held, leases, capfd, number):
    """Frozen or dead, on a machine that this one knows nothing of: for the time that the lease states."""
    os.kill(held(60, lease_seconds=1.5), number)
    start = time.monotonic()
    assert wait_until_free(leases) == 1
    assert time.monotonic() - start > 1
    assert "held by a start that does not answer" in capfd.readouterr().err


def test_what_died_on_this_machine_is_over_at_once(held, leases, capfd):
    """Although its parent has not taken notice: a process that is dead, but not gone."""
    process = held(60, is_elsewhere=False)
    os.kill(process, signal.SIGKILL)
    assert wait_until_free(leases) == 1
    assert capfd.readouterr().err == ""


def test_a_later_process_of_the_same_number_is_not_the_holder(leases):
    write(leases, Lease(4, process=os.getpid(), process_began="1", machine=record._machine()))
    assert wait_until_free(leases) == 4


def test_a_lease_that_was_given_back_is_over_at_once(held, leases):
    held(0.1)
    while not newest_lease(leases).ended:
        time.sleep(0.05)
    assert wait_until_free(leases) == 1


def test_clocks_of_machines_are_not_compared(leases, monkeypatch):
    monkeypatch.setattr("pretrain.lease.watch.POLL_SECONDS", 0.01)
    write(leases, Lease(1, seconds=0.2))
    os.utime(leases / "00001.json", (2e9, 2e9))  # in the future
    assert wait_until_free(leases) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seconds": 1, "colour": "red"}'])
def test_a_lease_that_cannot_be_read_is_waited_out(leases, monkeypatch, content):
    """Its start died over it. Or it is just being claimed, and changes."""
    monkeypatch.setattr("pretrain.lease.watch.time", Clock(1.0))
    leases.mkdir()
    (leases / "00007.json").write_text(content)
    assert wait_until_free(leases) == 7


def test_time_for_which_the_disk_hangs_does_not_count(leases, monkeypatch):
    """It holds up the holder's renewals as well."""
    write(leases, Lease(1, seconds=20))
    monkeypatch.setattr("pretrain.lease.watch.POLL_SECONDS", 1.0)
    monkeypatch.setattr("pretrain.lease.watch.time", clock := Clock(30.0))
    assert wait_until_free(leases) == 1
    assert clock.now == 300  # ten looks of 2 s, for each of which 30 s went by


def test_of_two_that_claim_a_folder_at_once_one_holds_it(leases, monkeypatch):
    """The other finds the number taken, and looks again."""
    looks = iter([0, 0, 1])
    monkeypatch.setattr("pretrain.lease.watch.wait_until_free", lambda folder: next(looks))
    first, second = hold(leases), hold(leases)
    assert (first.number, second.number) == (1, 2)
    first.end(), second.end()


class Clock(SimpleNamespace):
    """In place of the module `time`: sleeping takes `pause` seconds."""

    def __init__(self, pause: float):
        super().__init__(now=0.0, pause=pause)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += self.pause


def write(leases: Path, lease: Lease) -> None:
    leases.mkdir(exist_ok=True)
    (leases / f"{lease.start:05d}.json").write_text(lease.text())
