"""Ranks of this machine: exit codes, signals, Ctrl-C, a time limit, and that nothing outlives what is above it.

The ranks are small programs, and torchrun a stand-in that does what matters here, so that a start takes no time. One
test has the real torchrun; real ranks under it are in tests/whole/faults/test_signals.py.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.launch import local
from pretrain.launch.outcome import ExitCode
from tests.support.launching import children, command_line, is_alive, kill

RANK = """
import os, signal, sys, time
from pathlib import Path
from pretrain.launch.outcome import leave, stops_first

def save(number, frame):
    os.write(1, f"saved on {signal.Signals(number).name}\\n".encode())  # at once: both ranks write to one file
    sys.exit(leave(75))

what, folder = sys.argv[1], Path(sys.argv[2])
if what != "deaf":
    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGUSR1, save)
(folder / os.environ["RANK"]).write_text(str(os.getpid()))
if what == "fails":
    sys.exit(3)
elif what == "mistaken" and os.environ["RANK"] == "1":
    if stops_first(2):
        print("espalier: that is wrong", file=sys.stderr)
    sys.exit(2)
elif what == "agrees":
    sys.exit(leave(2))
else:
    time.sleep(300)
"""
TORCHRUN = """
import os, signal, subprocess, sys, time

def main(arguments):
    number = int(next(word for word in arguments if word.startswith("--nproc-per-node=")).partition("=")[2])
    module = arguments[arguments.index("-m"):]
    def stop(number, frame):
        for rank in ranks:
            rank.kill()
        sys.exit(1)
    signal.signal(signal.SIGINT, stop)
    ranks = [
        subprocess.Popen([sys.executable, *module], env={**os.environ, "RANK": str(rank)}, start_new_session=True)
        for rank in range(number)
    ]
    sys.exit(any([rank.wait() for rank in ranks]))
"""
LAUNCHER = "import sys; from pretrain.launch.local import run_here; sys.exit(run_here(sys.argv[2:], int(sys.argv[1])))"


def write_programs(folder: Path, real_torchrun: bool = False) -> None:
    (folder / "small_rank.py").write_text(RANK)
    if not real_torchrun:
        (folder / "torch" / "distributed").mkdir(parents=True)
        (folder / "torch" / "distributed" / "run.py").write_text(TORCHRUN)
        for package in ("torch", "torch/distributed"):
            (folder / package / "__init__.py").touch()


class Ranks:
    """A launcher in a separate process, with two ranks that do one of the things above."""

    def __init__(self, folder: Path, what: str, real_torchrun: bool = False):
        write_programs(folder, real_torchrun)
        self.folder = folder
        self.output = folder / "output"
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ['PYTHONPATH']}"}
        command = [sys.executable, "-c", LAUNCHER, "2", "small_rank", what, str(folder)]
        with self.output.open("w") as file:
            self.launcher = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)

    def pids(self) -> list[int]:
        """Of both ranks, once they run."""
        files = [self.folder / "0", self.folder / "1"]
        deadline = time.monotonic() + 120
        while not all(file.exists() and file.read_text() for file in files):
            assert self.launcher.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)
        return [int(file.read_text()) for file in files]

    def agent(self) -> int:
        (pid,) = [pid for pid in children(self.launcher.pid) if b"pretrain.launch.agent" in command_line(pid)]
        return pid


@pytest.fixture
def ranks(tmp_path):
    started: list[Ranks] = []

    def start(what: str, real_torchrun: bool = False) -> Ranks:
        started.append(Ranks(tmp_path, what, real_torchrun))
        return started[-1]

    yield start
    for one in started:
        one.launcher.kill()
        one.launcher.wait()


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def assert_gone(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"still alive after {seconds} s: {[p for p in pids if is_alive(p)]}"
        time.sleep(0.02)


def test_the_command_line_of_torchrun():
    assert local.torchrun_command(["pretrain", "train", "base"], 3, ["--standalone"]) == [
        *(sys.executable, "-m", "pretrain.launch.agent", "--standalone", "--nproc-per-node=3"),
        *("-m", "pretrain.launch.rank", "pretrain", "train", "base"),
    ]


def test_cores_are_shared_out_among_the_ranks(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    assert [local.rank_environment(nproc)["OMP_NUM_THREADS"] for nproc in (1, 5, 24)] == ["12", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert local.rank_environment(5)["OMP_NUM_THREADS"] == "7"


def test_the_code_that_ranks_agree_on_is_the_launchers(ranks):
    assert ranks("agrees").launcher.wait(120) == ExitCode.MISTAKE


def test_a_rank_that_fails_is_a_failure(ranks):
    assert ranks("fails").launcher.wait(120) == 1


def test_a_signal_to_the_launcher_reaches_every_rank(ranks):
    run = ranks("waits")
    run.pids()
    run.launcher.send_signal(signal.SIGUSR1)
    assert run.launcher.wait(60) == ExitCode.PREEMPTED
    assert run.output.read_text().count("saved on SIGUSR1") == 2
    assert "Traceback" not in run.output.read_text()


def test_ctrl_z_stops_launcher_and_ranks_until_they_are_continued(ranks):
    """The ranks have sessions of their own, so that the terminal does not reach them."""
    run = ranks("waits")
    everyone = [*run.pids(), run.agent(), run.launcher.pid]
    run.launcher.send_signal(signal.SIGTSTP)
    wait_until(lambda: all(map(is_stopped, everyone)))
    run.launcher.send_signal(signal.SIGCONT)
    wait_until(lambda: not any(map(is_stopped, everyone)))
    run.launcher.send_signal(signal.SIGUSR1)
    assert run.launcher.wait(60) == ExitCode.PREEMPTED
    assert run.output.read_text().count("saved on SIGUSR1") == 2


def test_a_signal_before_there_are_ranks_is_not_lost(ranks):
    run = ranks("waits")
    while not [pid for pid in children(run.launcher.pid) if b"pretrain.launch.agent" in command_line(pid)]:
        time.sleep(0.01)
    run.launcher.send_signal(signal.SIGTERM)
    assert run.launcher.wait(120) == ExitCode.PREEMPTED


def test_ctrl_c_lets_ranks_save_themselves(ranks):
    run = ranks("waits")
    run.pids()
    run.launcher.send_signal(signal.SIGINT)
    assert run.launcher.wait(60) == ExitCode.PREEMPTED
    assert run.output.read_text().count("saved on SIGTERM") == 2
    assert "Traceback" not in run.output.read_text()


def test_the_second_ctrl_c_ends_ranks_and_launcher_at_once(ranks):
    run = ranks("deaf")
    pids = run.pids()
    run.launcher.send_signal(signal.SIGINT)
    wait_until(lambda: "press it again" in run.output.read_text())
    run.launcher.send_signal(signal.SIGINT)
    assert run.launcher.wait(30) == ExitCode.INTERRUPTED
    assert_gone(pids, 2)


@pytest.mark.parametrize("whom", ["launcher", "torchrun"])
def test_ranks_are_gone_within_two_seconds_of_a_killed(ranks, whom):
    """They have their own sessions and no reason to look up."""
    run = ranks("deaf", real_torchrun=whom == "launcher")
    pids, agent = run.pids(), run.agent()
    kill(run.launcher.pid if whom == "launcher" else agent, signal.SIGKILL)
    assert_gone([*pids, agent], 2)
    assert run.launcher.wait(10) == (-signal.SIGKILL if whom == "launcher" else 128 + signal.SIGKILL)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    write_programs(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    return tmp_path


def test_ranks_save_themselves_when_their_time_is_over(programs):
    assert local.run_here(["small_rank", "waits", str(programs)], 2, seconds=3) == ExitCode.PREEMPTED


def test_ranks_that_do_not_leave_in_time_are_killed(programs, monkeypatch):
    monkeypatch.setattr(local, "SAVING_SECONDS", 1.0)
    (programs / "small_rank.py").write_text(RANK.replace("sys.exit(leave(75))", "return"))
    start = time.monotonic()
    assert local.run_here(["small_rank", "waits", str(programs)], 2, seconds=3) == 128 + signal.SIGKILL
    assert time.monotonic() - start < 60
    assert_gone([int(file.read_text()) for file in programs.glob("[01]")], 2)


def test_what_nohup_ignores_stays_ignored(ranks):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; the launcher inherits it
    try:
        run = ranks("waits")
        pids = run.pids()
    finally:
        signal.signal(signal.SIGHUP, before)
    run.launcher.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert all(map(is_alive, pids))


def test_a_mistake_that_one_rank_finds_is_one_line_and_its_code(tmp_path):
    """torchrun would print a page about it, and exit with 1."""
    ranks = Ranks(tmp_path, "mistaken", real_torchrun=True)
    assert ranks.launcher.wait(240) == ExitCode.MISTAKE
    lines = ranks.output.read_text().splitlines()  # the other rank is asked to leave, and saves itself
    assert [line for line in lines if line != "saved on SIGTERM"] == ["espalier: that is wrong"]
