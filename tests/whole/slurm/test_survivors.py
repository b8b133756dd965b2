"""A job that loses a node continues on the others, without the queue. Ranks that do nothing stand in for those that
train; test_jobs.py has real ones."""

import signal
import sys
import time
from pathlib import Path

import pytest

from pretrain.launch.outcome import ExitCode
from tests.support.cluster import Cluster
from tests.support.home import HOME
from tests.support.machines import Machine

pytestmark = pytest.mark.timeout(900)


def wait_for_file(file: Path, timeout: float = 400) -> None:
    deadline = time.monotonic() + timeout
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file}"
        time.sleep(0.02)


RANKS = """
import os, signal, time
from pathlib import Path
from pretrain.launch import leash
from pretrain.launch.outcome import ExitCode, leave
from pretrain.launch.survivors import Cause

def main(arguments):
    agent = os.getpid()
    if os.fork():
        os.wait()
        return
    leash.die_with_parent(agent)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(leave(ExitCode.PREEMPTED)))
    folder = Path(os.environ["SAID"])
    number = next(word.partition("=")[2] for word in arguments if word.startswith("--nproc-per-node"))
    (folder / f"{Cause.from_environment().attempt}-{os.environ['SLURMD_NODENAME']}-{number}").touch()
    while not (folder / "done").exists():
        time.sleep(0.1)
    os._exit(0)
"""
JOB = """
import os, sys
from pretrain.launch.environment import set_environment
from pretrain.launch.start import start_ranks
from pretrain.launch.tolerance import Tolerance

set_environment()
tolerance = Tolerance(detect_seconds=3, min_nodes=1, folder=os.environ["SAID"])
sys.exit(start_ranks(["nothing"], None, tolerance=tolerance))
"""


SITE = """
import os, sys, time
from pathlib import Path
late = os.environ.get("SLURMD_NODENAME") == "node3" and Path(os.environ["SAID"], "late").exists()
while late and "pretrain.launch.node" in sys.orig_argv:
    time.sleep(1)
"""


class Waiting:
    """Jobs whose ranks do nothing until the file `done` is there. Each leaves a file: ATTEMPT-NODE-RANKS."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        (folder / "torch" / "distributed").mkdir(parents=True)
        (folder / "torch" / "distributed" / "run.py").write_text(RANKS)
        for package in ("torch", "torch/distributed"):
            (folder / package / "__init__.py").touch()
        (folder / "job.py").write_text(JOB)
        (folder / "sitecustomize.py").write_text(SITE)  # Python starts slowly on node3, if so asked
        (folder / "job.sh").write_text(f"#!/bin/sh\nexec {sys.executable} {folder}/job.py\n")

    def submit(self, *ranks: str, **options: str) -> str:
        """Returns once these ranks have started."""
        environment = {"PYTHONPATH": f"{HOME}:{self.folder}", "SAID": str(self.folder)}
        job = self.cluster.submit(str(self.folder / "job.sh"), environment=environment, **options)
        self.wait_for(*ranks)
        return job

    def wait_for(self, *ranks: str) -> None:
        for name in ranks:
            wait_for_file(self.folder / name, timeout=150)


@pytest.fixture
def waiting(breakable: Cluster, tmp_path: Path) -> Waiting:
    return Waiting(breakable, tmp_path)


def calls(cluster: Cluster, node: Machine) -> int:
    """Connections that the node has taken. Its slurmd takes few but those of the first node, which knocks."""
    names, values = (line.split() for line in cluster.run("grep", "Tcp:", "/proc/net/snmp", on=node).splitlines())
    return int(values[names.index("PassiveOpens")])


def wait_for_pulse(cluster: Cluster, first: Machine, other: Machine) -> None:
    """Until the other node hears the first: ranks that save nothing may otherwise be gone before it does."""
    deadline = time.monotonic() + 60
    while not cluster.run("ss", "-Htn", "state", "established", "dst", first.address, on=other):
        assert time.monotonic() < deadline, "the nodes have not met"
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["frozen", "frozen before it has come", "cut off before it has come"])
def test_a_node_that_is_gone_is_missed(breakable, waiting, tmp_path, how):
    """GPUs lie unevenly: the next start uses as many on each node. What is left on the lost one ends, once it can."""
    node, ranks = breakable.nodes[2], ["0-node1-2", "0-node2-1", "0-node3-1"]
    if how == "frozen":
        job = waiting.submit(*ranks, nodes="3", gpus="4", no_requeue="")
        node.signal(signal.SIGSTOP)
    else:
        (tmp_path / "late").touch()
        job = waiting.submit(*ranks[:2], nodes="3", gpus="4", no_requeue="")
        taken, deadline = calls(breakable, node), time.monotonic() + 120
        while calls(breakable, node) < taken + 10:
            assert time.monotonic() < deadline, "nobody has knocked"
            time.sleep(0.1)
        if how == "cut off before it has come":
            node.cut()
        else:
            node.signal(signal.SIGSTOP)
    waiting.wait_for("1-node1-1", "1-node2-1")
    assert not list(tmp_path.glob("1-node3-*"))
    breakable.declare_down(node)
    time.sleep(1)
    assert breakable.state(job) == "RUNNING"  # it has given the node back
    (tmp_path / "done").touch()
    breakable.wait(job, "COMPLETED")
    assert breakable.exit_code(job) == 0
    said = "silent for" if how == "frozen" else "it was on, and is silent for"
    assert f"node node3 is lost: {said}" in breakable.output(job)
    node.signal(signal.SIGCONT)
    node.mend()
    deadline = time.monotonic() + 120
    while any(left := [each.processes("pretrain.launch") for each in breakable.nodes]):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_job_starts_on_fewer_nodes_than_it_may_have_and_is_cancelled(breakable, waiting):
    breakable.nodes[2].kill()
    breakable.declare_down(breakable.nodes[2])
    job = waiting.submit("0-node1-2", "0-node2-2", nodes="2-3")
    wait_for_pulse(breakable, *breakable.nodes[:2])
    breakable.cancel(job)
    breakable.wait_for(job, "saved; the job was cancelled or its time is over: submit it again to resume")
    breakable.wait(job, "CANCELLED")
    assert breakable.exit_code(job) == ExitCode.PREEMPTED and breakable.restarts(job) == 0


def test_a_job_whose_first_node_is_lost_is_requeued(breakable, waiting, tmp_path):
    """By SLURM, since what could continue was on that node. What is left on the others has ended."""
    job = waiting.submit("0-node1-2", "0-node2-2", "0-node3-2", nodes="2-3", requeue="")
    breakable.nodes[0].cut()
    breakable.nodes[0].kill()
    breakable.declare_down(breakable.nodes[0])
    breakable.wait(job, "PENDING")
    for file in tmp_path.glob("0-*"):
        file.unlink()
    breakable.start_now(job)
    waiting.wait_for("0-node2-2", "0-node3-2")
    assert breakable.restarts(job) == 1
    (tmp_path / "done").touch()
    breakable.wait(job, "COMPLETED")
