"""What is made of srun's messages. The messages themselves: tests/whole/slurm/test_jobs.py."""

import io
from contextlib import suppress
from typing import BinaryIO

import pytest

from pretrain.launch import agent, step
from pretrain.launch.outcome import ExitCode
from pretrain.launch.step import Step

ENDS = b"""1: a line of a rank
srun: error: node2: task 1: Exited with exit code 3
0: slurmstepd: error: *** STEP 5.0 ON node1 CANCELLED AT 2026-01-01T00:00:00 ***
srun: launch/slurm: _step_signal: Terminating StepId=5.0
slurmstepd-node1: error: *** STEP 5.0 ON node1 CANCELLED AT 2026-01-01T00:00:00 ***
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
srun: error: node1: task 0: Terminated
srun: error: Node failure on node3
"""
NODES = ["node1", "node2", "node3", "node4"]


@pytest.fixture
def heard(monkeypatch):
    """A function that gives what is made of lines of srun, on a machine that is none of the nodes."""
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)

    def hear(lines: bytes, out: BinaryIO | None = None) -> Step:
        step = Step(NODES)
        step.pass_on(lines.splitlines(keepends=True), out or io.BytesIO())
        return step

    return hear


def test_what_ranks_say_passes_and_how_tasks_end_is_kept(heard):
    out = io.BytesIO()
    step = heard(ENDS, out)
    assert step.codes == {"node2": 3, "node1": 143}
    assert out.getvalue() == b"a line of a rank\nsrun: error: Node failure on node3\n"
    assert step.lost == {"node3": "SLURM has lost it"}
    assert list(step.last_lines["node2"]) == ["a line of a rank"]


def test_a_task_that_was_killed_first_is_named(heard, capfd):
    step = heard(b"srun: error: node2: task 1: Killed\nsrun: error: node[3-4]: tasks 2-3: Terminated\n")
    assert step.codes == {"node2": 137, "node3": 143, "node4": 143}
    assert step.failed == {"node2": "its part ended with exit code 137"}
    assert capfd.readouterr().err == "espalier: node2: Killed\n"


def test_sruns_messages_are_read_to_the_end_though_nobody_reads_ours(heard, monkeypatch):
    """Else srun's pipe fills up and it never ends."""
    with open("/dev/full", "wb") as full:
        killed = b"srun: error: node2: task 1: Killed\n"
        step = heard(b"1: a line of a rank\n" + killed + b"srun: error: node1: task 0: Terminated\n", full)
        with suppress(OSError):
            full.close()
    assert step.codes == {"node2": 137, "node1": 143}


@pytest.mark.parametrize(
    ("lines", "failed"),
    [
        (b"srun: error: node3: task 2: Exited with exit code 1\nsrun: error: node1: task 0: Terminated\n", "node3"),
        (b"srun: error: node1: task 0: Exited with exit code 69\nsrun: error: node2: task 1: Killed\n", ""),
        (b"srun: error: node2: task 1: Exited with exit code 70\n", ""),
        (b"srun: error: node1: task 0: Exited with exit code 76\n", ""),
        (b"0: espalier: node node4 is lost: silent\nsrun: error: node1: task 0: Exited with exit code 69\n", "node4"),
        (b"0: espalier: node node2 is lost: silent for 30 s\n1: espalier: node node1 is lost: not heard\n", "node2"),
        (b"2: espalier: node node1 is lost: not heard\n1: espalier: node node1 is lost: not heard\n", "node1"),
        (b"srun: error: Task launch for StepId=7.1 failed on node node3: Communication connection failure\n", "node3"),
    ],
)  # fmt: skip
def test_the_node_at_fault(heard, lines, failed):
    assert " ".join(heard(lines).failed) == failed


def test_the_node_that_this_process_is_on_is_not_lost(heard, monkeypatch):
    """Whoever says so has lost it."""
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    assert heard(b"2: espalier: node node1 is lost: not heard\n").failed == {"node3": "it cannot reach node1"}


def test_a_step_is_over_once_all_but_the_lost_have_ended(heard):
    lost = b"0: espalier: node node4 is lost: silent for 30 s\n"
    assert not heard(lost).has_left
    assert heard(lost + b"srun: error: node[1-3]: tasks 0-2: Exited with exit code 69\n").has_left


@pytest.mark.parametrize(
    ("codes", "first"),
    [
        ([], None),
        ([1, 143], 1),
        ([143, 3], 3),
        ([ExitCode.PEER_LOST, ExitCode.HUNG, 137], ExitCode.HUNG),
        ([137, ExitCode.PEER_LOST], 137),
    ],
)
def test_the_jobs_exit_code_is_the_first_failures(codes, first):
    assert step.first_failure(codes) == first


def test_how_a_rank_ended():
    assert agent.ended(3) == "ended with exit code 3"
    assert agent.ended(-9) == "was killed by SIGKILL, often a sign that memory ran out"
    assert agent.ended(-11) == "was killed by SIGSEGV"
