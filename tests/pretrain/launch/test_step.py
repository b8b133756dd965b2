"""What is made of srun's messages. The messages themselves: tests/whole/slurm/test_jobs.py."""

from contextlib import suppress

import pytest

from pretrain.launch import agent, step
from pretrain.launch.outcome import ExitCode

ENDS = b"""a line of a rank
srun: error: node2: task 1: Exited with exit code 3
srun: launch/slurm: _step_signal: Terminating StepId=5.0
slurmstepd: error: *** STEP 5.0 ON node1 CANCELLED AT 2026-01-01T00:00:00 ***
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
srun: error: node1: task 0: Terminated
srun: error: Node failure on node3
"""


def test_what_ranks_say_passes_and_how_tasks_end_is_kept(capfdbinary):
    codes: list[int] = []
    step.pass_on(ENDS.splitlines(keepends=True), codes)
    assert codes == [3, 143]
    assert capfdbinary.readouterr().err == b"a line of a rank\nsrun: error: Node failure on node3\n"


def test_a_task_that_was_killed_first_is_named(capfd):
    codes: list[int] = []
    step.pass_on([b"srun: error: node2: task 1: Killed\n", b"srun: error: node[3-4]: tasks 2-3: Terminated\n"], codes)
    assert codes == [137, 143]
    assert capfd.readouterr().err == "espalier: node2: Killed\n"


def test_sruns_messages_are_read_to_the_end_though_nobody_reads_ours(monkeypatch):
    """Else srun's pipe fills up and it never ends."""
    codes: list[int] = []
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stderr", full)
        killed = b"srun: error: node2: task 1: Killed\n"
        step.pass_on([b"a line of a rank\n", killed, b"srun: error: node1: task 0: Terminated\n"], codes)
        monkeypatch.undo()
        with suppress(OSError):
            full.close()
    assert codes == [137, 143]


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
