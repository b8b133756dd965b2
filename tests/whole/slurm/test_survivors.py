"""A job that loses a node goes on with the others, without the queue, and ends as a run of the same layouts would."""

import json
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


def starts(folder: Path) -> list[dict]:
    return json.loads((folder / "runs" / "tiny" / "starts.json").read_text())


def test_a_job_that_loses_a_node_goes_on_with_the_others(breakable, corpus, tmp_path):
    """The node's power fails in a step: nobody closes its connections. SLURM takes it for alive for five minutes."""
    job = submit(breakable, corpus, tmp_path, 3)
    wait_for_file(tmp_path / "runs" / "tiny" / "checkpoints" / "latest")
    lost = breakable.nodes[2]
    lost.cut()
    lost.kill()
    breakable.wait_for(job, "the run goes on with 2 nodes: node1 node2", timeout=400)
    breakable.wait(job, "COMPLETED", timeout=600)
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
