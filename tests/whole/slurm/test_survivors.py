"""A job that loses a node goes on with the others, without the queue, and ends as a run of the same layouts would."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from pretrain.training.train import train
from tests.support.cluster import Cluster
from tests.support.home import HOME
from tests.support.tiny import same_bits, tiny_recipe, train_until, write_recipe
from tests.support.workers import pool

pytestmark = pytest.mark.timeout(900)

STEPS = 40
CHANGES = dict(
    stages=[{"name": "long", "steps": STEPS}],
    batch={"global": 12, "micro": 2},
    checkpoint={"every": 4, "keep_last": 20},
    validation={"rows": 4},
    faults={"min_nodes": 1, "detect_seconds": 6},
)


def submit(cluster: Cluster, corpus: Path, folder: Path, num_nodes: int, *arguments: str) -> str:
    recipe = write_recipe(folder / "tiny.yaml", corpus, **CHANGES)
    command = ["train", str(recipe), "--runs", str(folder / "runs"), "--nproc", "1", *arguments]
    environment = {"ESPALIER_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    options = dict(nodes=str(num_nodes), chdir=str(HOME), no_kill="", no_requeue="")
    return cluster.submit(str(HOME / "launch.sh"), *command, environment=environment, **options)


def wait_for_file(file: Path, timeout: float = 400) -> None:
    deadline = time.monotonic() + timeout
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file}"
        time.sleep(0.02)


RANKS = """
import os, time
from pathlib import Path
from pretrain.launch.survivors import Cause

def main(arguments):
    folder = Path(os.environ["SAID"])
    (folder / f"{Cause.from_environment().attempt}-{os.environ['SLURMD_NODENAME']}").touch()
    while not (folder / "done").exists():
        time.sleep(0.1)
"""
JOB = """
import os, sys
from pretrain.launch.environment import set_environment
from pretrain.launch.start import start_ranks
from pretrain.launch.tolerance import Tolerance

set_environment()
tolerance = Tolerance(detect_seconds=3, min_nodes=1, folder=os.environ["SAID"])
sys.exit(start_ranks(["nothing"], 1, tolerance=tolerance))
"""


@pytest.fixture
def waiting(breakable: Cluster, tmp_path: Path) -> str:
    """A job of three nodes whose ranks do nothing, once they do so on all."""
    (tmp_path / "torch" / "distributed").mkdir(parents=True)
    (tmp_path / "torch" / "distributed" / "run.py").write_text(RANKS)
    for package in ("torch", "torch/distributed"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "job.sh").write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/job.py\n")
    environment = {"PYTHONPATH": f"{HOME}:{tmp_path}", "SAID": str(tmp_path)}
    job = breakable.submit(str(tmp_path / "job.sh"), environment=environment, nodes="3", no_kill="", no_requeue="")
    for node in breakable.nodes:
        wait_for_file(tmp_path / f"0-{node.name}")
    return job


@pytest.mark.parametrize("how", ["frozen", "cut off"])
def test_a_node_that_is_gone_is_missed(breakable, waiting, tmp_path, how):
    """And what is left of the run there ends, once it can."""
    node = breakable.nodes[2]
    if how == "frozen":
        node.signal(signal.SIGSTOP)
    else:
        node.cut()
    for survivor in ("node1", "node2"):
        wait_for_file(tmp_path / f"1-{survivor}", timeout=150)
    assert not (tmp_path / "1-node3").exists()
    (tmp_path / "done").touch()
    wait_for_end(breakable, waiting)
    assert breakable.exit_code(waiting) == 0
    assert "node node3 is lost: silent for" in breakable.output(waiting)
    node.signal(signal.SIGCONT)
    node.mend()
    deadline = time.monotonic() + 120
    while any(left := [each.processes("pretrain.launch") for each in breakable.nodes]):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def wait_for_end(cluster: Cluster, job: str) -> None:
    """SLURM waits minutes longer, for the node that does not answer."""
    cluster.wait(job, "COMPLETING", "COMPLETED", timeout=400)


def starts(folder: Path) -> list[dict]:
    return json.loads((folder / "runs" / "tiny" / "starts.json").read_text())


def test_a_job_that_loses_a_node_goes_on_with_the_others(breakable, corpus, tmp_path):
    """The node's power fails in a step: nobody closes its connections. SLURM takes it for alive for five minutes."""
    job = submit(breakable, corpus, tmp_path, 3)
    wait_for_file(tmp_path / "runs" / "tiny" / "checkpoints" / "latest")
    lost = breakable.nodes[2]
    lost.cut()
    lost.kill()
    breakable.wait_for(job, "the run continues on 2 nodes: node1 node2", timeout=400)
    wait_for_end(breakable, job)
    assert breakable.exit_code(job) == 0
    output = breakable.output(job)
    assert "espalier: node node3 is lost: silent for" in output
    first, second = starts(tmp_path)
    assert (first["nodes"], second["nodes"]) == (["node1", "node2", "node3"], ["node1", "node2"])
    assert second["failed_nodes"] == ["node3"] and "node3" in second["cause"]
    assert breakable.restarts(job) == 0
    for node in breakable.nodes[:2]:
        assert node.processes("pretrain") == []

    pool(3).run(train_until, tiny_recipe(corpus, **CHANGES), tmp_path / "reference", second["step"])
    pool(2).run(train, tiny_recipe(corpus, **CHANGES), tmp_path / "reference")
    assert same_bits(tmp_path / "runs" / "tiny", tmp_path / "reference")
