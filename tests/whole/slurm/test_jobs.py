"""Jobs of two nodes under a real SLURM: requeued, cancelled, broken."""

import json
import sys
from pathlib import Path

import pytest

from pretrain.runs import journal
from pretrain.runs.status import read_status
from pretrain.training.train import train
from tests.support.cluster import Cluster
from tests.support.home import HOME
from tests.support.tiny import losses, metrics, tiny_recipe, write_recipe
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


def submit(cluster: Cluster, recipe: Path, runs: Path, **environment: str) -> str:
    command = ["train", str(recipe), "--runs", str(runs), "--nproc", "1"]
    options = dict(nodes="2", chdir=str(HOME), open_mode="append", requeue="")
    # Nodes of their own have no way out, to install anything. One thread, as in the pools of ranks: sums over several
    # threads round differently.
    environment = {"ESPALIER_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment}
    return cluster.submit(LAUNCH, *command, environment=environment, **options)


def test_a_job_of_two_nodes_is_requeued_on_a_signal_and_ends_as_if_nothing_had_happened(cluster, corpus, tmp_path):
    """Two processes on one node, undisturbed, are the reference."""
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus)
    job = submit(cluster, recipe, tmp_path / "runs")
    cluster.wait_for(job, "stage untied")
    cluster.signal(job, "USR1")
    cluster.wait_for(job, "goes back into the queue")
    cluster.start_now(job)
    cluster.wait(job, "COMPLETED")
    text = cluster.output(job)
    assert cluster.restarts(job) == 1
    assert "resumed at step" in text
    assert text.count("verdict: ") == 2  # the look at the nodes before each start
    assert "node2" in text
    assert "Traceback" not in text
    assert "for the run to be saved in time: --signal=B:USR1@" in text
    assert "requeued" in [entry["event"] for entry in journal.read(tmp_path / "runs" / "tiny")]
    status = read_status(tmp_path / "runs" / "tiny")
    assert (status.state, status.nodes, status.job) == ("finished", 2, str(job))
    assert ["SIGUSR1 received: saved" in restart["cause"] for restart in status.restarts] == [True]

    pool(2).run(train, tiny_recipe(corpus), tmp_path / "reference")
    assert losses(tmp_path / "runs" / "tiny") == losses(tmp_path / "reference")
    assert metrics(tmp_path / "runs" / "tiny") == metrics(tmp_path / "reference")


def test_scancel_leaves_a_checkpoint_to_go_on_from(cluster, corpus, tmp_path):
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus, checkpoint={"every": 0}, stages=STEPS)
    job = submit(cluster, recipe, tmp_path / "runs")
    cluster.wait_for(job, "validation at step 20")
    cluster.cancel(job)
    cluster.wait_for(job, "submit it again to resume")
    cluster.wait(job, "CANCELLED")
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    saved = json.loads((checkpoints / (checkpoints / "latest").read_text().strip() / "index.json").read_text())
    assert saved["run"]["progress"]["step"] >= 20


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
