"""The check before ranks start: its exit code, and signals while it runs."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pretrain.launch import check
from pretrain.launch.outcome import ExitCode
from pretrain.launch.requests import Requests
from pretrain.launch.slurm import Job
from tests.support.home import HOME
from tests.support.launching import is_alive


@pytest.fixture
def checking(monkeypatch):
    """A function that puts a program in the check's place; this process gets a signal as soon as it runs."""
    started = []

    def put(code: str, number: int | None = None) -> list[subprocess.Popen]:
        def start(command):
            started.append(subprocess.Popen([sys.executable, "-c", code]))
            if number:
                os.kill(os.getpid(), number)
            return started[-1]

        monkeypatch.setattr(check, "start_child", start)
        return started

    monkeypatch.setattr(Job, "from_environment", lambda: None)
    return put


@pytest.mark.parametrize("code", [0, 2])
def test_its_exit_code_is_the_checks(checking, code):
    checking(f"raise SystemExit({code})")
    assert check.run_check(["train", "tiny"]) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_it_at_once_and_asks_for_another_start(checking, number, capfd):
    started = checking("import time; time.sleep(300)", number)
    assert check.run_check(["train", "tiny"]) == ExitCode.PREEMPTED
    assert f"{number.name} received before the run had started: there is nothing to save" in capfd.readouterr().err
    assert not is_alive(started[0].pid)


def test_a_job_goes_back_into_the_queue(checking, monkeypatch):
    job, requeued = Job(7, 2, "node[1-2]", 0), []
    monkeypatch.setattr(Job, "from_environment", lambda: job)
    monkeypatch.setattr(check, "requeue", lambda *arguments: requeued.append(arguments))
    checking("import time; time.sleep(300)", signal.SIGUSR1)
    assert check.run_check(["train", "tiny"]) == ExitCode.PREEMPTED
    assert requeued == [(job, "SIGUSR1 received before the run had started")]


def test_ctrl_c_is_an_interruption(checking):
    checking("import time; time.sleep(300)", signal.SIGINT)
    assert check.run_check(["train", "tiny"]) == ExitCode.INTERRUPTED


def test_what_comes_between_check_and_ranks_is_kept_for_the_ranks():
    with Requests():
        with Requests():
            pass
        os.kill(os.getpid(), signal.SIGUSR1)
        with Requests() as of_the_ranks:
            assert of_the_ranks.take() == signal.SIGUSR1
            assert of_the_ranks.take() is None


def test_a_signal_that_came_before_this_process_did_is_taken_once(monkeypatch):
    monkeypatch.setenv("ESPALIER_SIGNAL", "SIGUSR1")  # as launch.sh leaves it
    for expected in (signal.SIGUSR1, None):
        with Requests() as requests:
            assert requests.take() == expected


def test_a_signal_reaches_train_from_the_first_line_on(tmp_path):
    """While launch.sh looks for a Python: here one that takes its time."""
    python, begun = tmp_path / "python", tmp_path / "begun"
    python.write_text(f'#!/bin/sh\ntouch "{begun}"\nsleep 0.5\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "ESPALIER_PYTHON": str(python)}
    command = [HOME / "launch.sh", "train", "base"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as launch:
        while not begun.exists():
            time.sleep(0.01)
        launch.send_signal(signal.SIGUSR1)
        assert launch.wait(120) == ExitCode.PREEMPTED
        assert "SIGUSR1 received before the run had started" in launch.stderr.read()
