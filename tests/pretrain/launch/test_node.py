"""A node's part of a job: what its torchrun is started with, and which of its ranks speaks."""

from contextlib import nullcontext

import pytest

from pretrain.launch import meeting, node
from pretrain.launch.outcome import is_known, stops_first
from pretrain.launch.pulse import OtherNode
from pretrain.launch.slurm import Task


@pytest.fixture
def step(monkeypatch):
    """Runs the part of a node of two. `ranks` stands in for torchrun and returns the exit code."""
    monkeypatch.setattr(node, "node_address", lambda name: name)
    monkeypatch.setattr(node, "interface_variables", lambda own, peer: {})
    monkeypatch.setattr(meeting, "invitation", lambda key, ports, first: nullcontext(20001))
    monkeypatch.setattr(meeting, "find", lambda key, host, ports, seconds: meeting.Place(20000, 20001))
    monkeypatch.setattr(OtherNode, "listening", lambda self, host, door: nullcontext())
    monkeypatch.delenv("MASTER_PORT", raising=False)

    def run(index: int, ranks) -> int:
        def run_ranks(module, nproc, rendezvous, variables, must_leave):
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            return ranks(rendezvous)

        monkeypatch.setattr(node, "run_ranks", run_ranks)
        return node.run_node(Task("7-0-0", 7, ("a", "b"), index), ["pretrain"], 2)

    return run


@pytest.mark.parametrize("index", [0, 1])
def test_on_every_node_the_first_rank_that_stops_says_why(step, index):
    def ranks(rendezvous):
        assert not is_known()
        assert [stops_first(2), is_known(), stops_first(2)] == [True, True, False]
        return 0

    assert step(index, ranks) == (2 if index == 0 else 0)  # the first node tells the code for all


def test_nodes_wait_for_a_rendezvous_that_is_slow_to_listen(step):
    """torch would wait for 60 s."""
    found = []
    step(1, lambda rendezvous: found.extend(rendezvous) or 0)
    assert "read_timeout=600" in found[found.index("--rdzv-conf") + 1].split(",")
