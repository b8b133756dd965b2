"""What a job does when nodes go and come, with a stand-in for its steps. Whole jobs: tests/whole/slurm."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.launch import survivors
from pretrain.launch.outcome import ExitCode
from pretrain.launch.slurm import Job
from pretrain.launch.step import Step
from pretrain.launch.survivors import CAUSE, Cause, run_job
from pretrain.launch.tolerance import Tolerance

JOB = Job(7, 4, "node[1-4]", 0)
ALL = ["node1", "node2", "node3", "node4"]


class Cluster:
    """A job's nodes, and what each of its steps in turn ends with: a code, and the node at fault."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes = list(ALL)
        self.ends: list[tuple[int, str]] = []
        self.before_step: Callable[[], None] = lambda: None
        self.begins = True
        self.steps: list[list[str]] = []
        self.causes: list[Cause] = []
        self.given_back: list[str] = []

    def run_step(self, job, nodes, module, nproc, after_another, variables, look, python):
        self.steps.append(list(nodes))
        self.causes.append(Cause(**json.loads(variables.get(CAUSE, "{}"))))
        if self.begins:
            start = {"job": "7", "restart": 0, "attempt": self.causes[-1].attempt}
            (self.folder / "starts.json").write_text(json.dumps([start]))
        self.before_step()
        look()
        code, node = self.ends.pop(0)
        step = Step(nodes)
        if node:
            step.lost[node] = "silent for 30 s"
            step.last_lines[node] = ["its last line"]
        return code, step

    def run(self, **tolerance) -> int:
        given = {"min_nodes": 2, "folder": str(self.folder), **tolerance}
        return run_job(JOB, ["nothing"], None, Tolerance(**given))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    one = Cluster(tmp_path)
    monkeypatch.setattr(survivors, "run_step", one.run_step)
    monkeypatch.setattr(survivors, "nodes_now", lambda job: list(one.nodes))
    monkeypatch.setattr(survivors, "is_running", lambda job: True)
    monkeypatch.setattr(survivors, "give_back", lambda job, nodes: one.given_back.extend(nodes))
    monkeypatch.setattr(survivors, "LOOK_SECONDS", 0)
    return one


def test_a_run_goes_on_without_the_nodes_that_failed(cluster, capfd):
    cluster.ends = [(ExitCode.PEER_LOST, "node3"), (1, "node1"), (ExitCode.DONE, "")]
    assert cluster.run() == ExitCode.DONE
    assert cluster.steps == [ALL, ["node1", "node2", "node4"], ["node2", "node4"]]
    second = cluster.causes[1]
    assert (second.attempt, second.failed_nodes, second.last_lines) == (1, ["node3"], ["its last line"])
    assert second.nodes == cluster.steps[1]
    said = "espalier: node node3 failed: silent for 30 s; the run continues on 3 nodes: node1 node2 node4"
    assert said in capfd.readouterr().err
    assert cluster.given_back == ["node3", "node1"]


def test_with_too_few_left_the_job_ends(cluster, capfd):
    cluster.ends = [(ExitCode.PEER_LOST, "node3"), (ExitCode.PEER_LOST, "node4")]
    assert cluster.run(min_nodes=3) == ExitCode.PEER_LOST
    assert "2 nodes left, and the run needs 3" in capfd.readouterr().err


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.MISTAKE, ExitCode.PREEMPTED, ExitCode.INTERRUPTED])
def test_what_is_no_fault_is_not_tried_again(cluster, code):
    cluster.ends = [(code, "")]
    assert cluster.run() == code


def test_a_run_whose_nodes_do_not_come_and_go_is_not_started_again(cluster):
    cluster.ends = [(ExitCode.PEER_LOST, "node3")]
    assert cluster.run(min_nodes=None) == ExitCode.PEER_LOST


def test_a_cancelled_job_is_not_started_again(cluster, monkeypatch):
    monkeypatch.setattr(survivors, "is_running", lambda job: False)
    cluster.ends = [(143, "")]
    assert cluster.run() == 143


def test_starts_that_never_get_as_far_as_the_run_are_given_up(cluster, capfd):
    cluster.begins = False
    cluster.ends = [(1, "")] * 9
    assert cluster.run(restarts=2) == ExitCode.MISTAKE
    assert len(cluster.steps) == 3
    assert "3 starts in a row failed before the run began" in capfd.readouterr().err


def test_spare_nodes_wait_until_one_fails(cluster):
    cluster.ends = [(ExitCode.PEER_LOST, "node2"), (ExitCode.PEER_LOST, "node1")]
    assert cluster.run(min_nodes=None, spare=1) == ExitCode.PEER_LOST
    assert cluster.steps == [["node1", "node2", "node3"], ["node1", "node3", "node4"]]
    assert not (cluster.folder / "regroup").exists()


def test_at_most_so_many_nodes_are_used(cluster):
    cluster.ends = [(ExitCode.PEER_LOST, "node1"), (ExitCode.DONE, "")]
    assert cluster.run(max_nodes=2) == ExitCode.DONE
    assert cluster.steps == [["node1", "node2"], ["node2", "node3"]]


def test_too_small_a_job_is_refused(cluster):
    with pytest.raises(UserError, match="the job has 4 nodes to train on; the run needs 5"):
        cluster.run(min_nodes=5)


def test_nodes_that_come_are_taken_at_a_checkpoint(cluster, capfd):
    cluster.before_step = lambda: cluster.nodes.append("node5") if "node5" not in cluster.nodes else None
    cluster.ends = [(ExitCode.REGROUP, ""), (ExitCode.DONE, "")]
    assert cluster.run() == ExitCode.DONE
    assert (cluster.folder / "regroup").exists()
    assert cluster.steps == [ALL, [*ALL, "node5"]]
    assert "1 node more: node5; the run takes them at its next checkpoint" in capfd.readouterr().err
    assert cluster.causes[1].cause == "saved to continue on other nodes"


def test_no_nodes_seem_to_have_come_while_slurm_does_not_answer(cluster):
    """A first node that is cut off must not ask for nodes that it has given back since the job began."""
    lists = {1: ALL[:3], 2: [], 3: []}
    cluster.before_step = lambda: setattr(cluster, "nodes", lists[len(cluster.steps)])
    cluster.ends = [(ExitCode.PEER_LOST, "node4"), (ExitCode.HUNG, ""), (ExitCode.DONE, "")]
    assert cluster.run() == ExitCode.DONE
    assert cluster.steps == [ALL, ALL[:3], ALL[:3]]
    assert not (cluster.folder / "regroup").exists()


def test_a_failed_node_is_not_taken_again_until_slurm_has_given_it_anew(cluster):
    def leave() -> None:
        cluster.nodes = {1: ALL[:3], 2: ALL, 3: ALL}[len(cluster.steps)]

    cluster.before_step = leave
    cluster.ends = [(ExitCode.PEER_LOST, "node4"), (ExitCode.REGROUP, ""), (ExitCode.DONE, "")]
    assert cluster.run() == ExitCode.DONE
    assert cluster.steps == [ALL, ALL[:3], ALL]
