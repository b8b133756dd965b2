"""Jobs that train under a real SLURM: broken, requeued, failed."""

import json
import sys
import time
from pathlib import Path

import pytest

from pretrain.runs import journal
from pretrain.runs.status import read_status
from pretrain.training.train import train
from tests.support.cluster import Cluster
from tests.support.home import HOME
from tests.support.tiny import losses, same_bits, tiny_recipe, train_until, write_recipe
from tests.support.workers import pool

LAUNCH = str(HOME / "launch.sh")

pytestmark = pytest.mark.timeout(900)


STEPS = [{"name": "long", "steps": 9999}]

BREAKS = """
import os
if os.environ.get("RANK") == "1":
    from pretrain.training.trainer import Trainer
    def step(self):
        raise OSError("the disk of this node is gone")
    Trainer._step = step
"""


CHANGES = dict(  # no checkpoint on disk is newer than those in memory while the first stage goes on
    stages=[{"name": "tied", "steps": 24}, {"name": "untied", "steps": 24, "grow": "unshare"}],
    batch={"global": 12, "micro": 2},
    checkpoint={"every": 24, "memory_every": 2, "keep_last": 20},
    validation={"rows": 4},
    faults={"min_nodes": 1, "detect_seconds": 6},
)


def submit(cluster: Cluster, recipe: Path, runs: Path, *, nodes: str = "2", **environment: str) -> str:
    command = ["train", str(recipe), "--runs", str(runs), "--nproc", "1"]
    options = dict(nodes=nodes, chdir=str(HOME), open_mode="append", requeue="")
    # Nodes of their own have no way out, to install anything. One thread, as in the pools of ranks: sums over several
    # threads round differently.
    environment = {"ESPALIER_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment}
    return cluster.submit(LAUNCH, *command, environment=environment, **options)


def test_a_job_loses_a_node_is_requeued_on_a_signal_and_ends_as_if_nothing_had_happened(breakable, corpus, tmp_path):
    """The node's power fails in a step: nobody closes its connections, and SLURM takes it for alive for minutes. What
    it had in memory is on its neighbour. The reference has the same numbers of ranks, as processes of one machine."""
    run = tmp_path / "runs" / "tiny"
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus, **CHANGES)
    job = submit(breakable, recipe, tmp_path / "runs", nodes="2-3")
    breakable.wait_for(job, "tied step 1 of 48 steps")
    wait_for_step(run, 4)
    lost = breakable.nodes[2]
    lost.cut()
    lost.kill()
    breakable.wait_for(job, "the run continues on 2 nodes: node1 node2")
    breakable.wait_for(job, "stage untied")
    breakable.signal(job, "USR1")
    breakable.wait_for(job, "goes back into the queue")
    breakable.declare_down(lost)
    breakable.start_now(job)
    breakable.wait(job, "COMPLETED")
    assert breakable.restarts(job) == 1
    for node in breakable.nodes[:2]:
        assert node.processes("pretrain") == []

    text = breakable.output(job)
    assert "espalier: node node3 is lost: silent for" in text
    assert "resuming from the memory of the nodes" in text
    assert text.count("verdict: ") == 3  # the look at the nodes before each start
    assert "Traceback" not in text
    assert "for the run to be saved in time: --signal=B:USR1@" in text
    assert "requeued" in [entry["event"] for entry in journal.read(run)]
    status = read_status(run)
    assert (status.state, status.nodes, status.job) == ("finished", 2, str(job))
    first, second = (restart["cause"] for restart in status.restarts)
    assert "node node3 failed: silent for" in first and "SIGUSR1 received: saved" in second

    starts = json.loads((run / "starts.json").read_text())
    assert [start["nodes"] for start in starts] == [["node1", "node2", "node3"], ["node1", "node2"], ["node1", "node2"]]
    assert starts[1]["failed_nodes"] == ["node3"]
    pool(3).run(train_until, tiny_recipe(corpus, **CHANGES), tmp_path / "reference", starts[1]["step"])
    pool(2).run(train, tiny_recipe(corpus, **CHANGES), tmp_path / "reference")
    assert losses(run) == losses(tmp_path / "reference")
    assert same_bits(run, tmp_path / "reference")


def wait_for_step(run: Path, step: int) -> None:
    while not any(line["step"] >= step for line in journal.tail(run / "metrics.jsonl")):
        time.sleep(0.02)  # until the test's time is over


def test_a_rank_that_fails_ends_the_job_at_once_and_says_why(cluster, corpus, tmp_path):
    """It fails as rank 0 already waits for it in a collective."""
    (tmp_path / "sitecustomize.py").write_text(BREAKS)
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus, stages=STEPS)
    job = submit(cluster, recipe, tmp_path / "runs", PYTHONPATH=str(tmp_path))
    cluster.wait_for(job, "OSError: the disk of this node is gone")
    cluster.wait(job, "FAILED", timeout=180)
    assert cluster.restarts(job) == 0
    assert cluster.exit_code(job) == 1  # of the rank that failed, not of those that ended for it
    output = cluster.output(job)
    assert output.count("Traceback (most recent call last)") == 1
    assert "espalier: rank 1 on node2 ended with exit code 1" in output
    assert len(output[output.index("OSError: the disk") :].splitlines()) < 8
