"""The look at the machines before a run: what it finds on ranks of this machine, and whom it calls bad."""

import io
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist
from rich.console import Console

from model.parallel import layout as layout_module
from model.parallel.layout import ParallelLayout
from pretrain.engine.nodes import Node, show, survey, verdict
from tests.support.workers import pool

GOOD = Node("node1", 8, 12.0, "NVIDIA H100", 79.6, 0.0, 900.0, 250.0, 40.0)


def survey_as_two_nodes(folder: Path) -> list[Node]:
    with patch.dict(os.environ, SLURMD_NODENAME=f"node{dist.get_rank() // 2 + 1}"):
        return survey(folder)


def test_a_survey_of_two_nodes_with_two_ranks_each(tmp_path):
    first, *others = pool(4).run(survey_as_two_nodes, tmp_path / "not" / "there" / "yet")
    assert all([node.name for node in nodes] == ["node1", "node2"] for nodes in (first, *others))
    for node in first:
        assert node.ranks == 2
        assert node.within_gb_per_second > 0
        assert node.across_gb_per_second > 0
        assert abs(node.clock_seconds) < 5
        assert node.free_gb > 0
    assert first[0].across_gb_per_second == first[1].across_gb_per_second  # it is one link


def links_told(folder: Path) -> tuple[set[int], int]:
    """Whom this rank sends to, and how many links it tells the others of; each rank is a node of its own."""
    gather, exchange, told, receivers = dist.all_gather_object, dist.batch_isend_irecv, [], set()

    def gathering(gathered: list, mine: object) -> None:
        told.append(mine)
        gather(gathered, mine)

    def exchanging(messages: list[dist.P2POp]) -> list[dist.Work]:
        receivers.update(message.peer for message in messages)
        return exchange(messages)

    name = patch.dict(os.environ, SLURMD_NODENAME=f"node{dist.get_rank()}")
    with name, patch.object(dist, "all_gather_object", gathering), patch.object(dist, "batch_isend_irecv", exchanging):
        assert all(node.across_gb_per_second > 0 for node in survey(folder))
    return receivers, len(told[-1]["links"])


def test_a_rank_times_and_tells_its_own_links_alone(tmp_path):
    """Or a thousand ranks would time all of them one after the other, and tell each other of all."""
    neighbours = [{1, 3}, {0, 2}, {1, 3}, {0, 2}]
    assert pool(4).run(links_told, tmp_path) == [(each, 2) for each in neighbours]


def survey_and_install(folder: Path) -> list[int]:
    """Ranks 0 and 1 have a ring in the look and a tensor-parallel group right after it."""
    survey_as_two_nodes(folder)
    with patch.object(layout_module, "_places", {}):
        group = ParallelLayout(2, 2).install().group
    assert group is not None
    told: list[int | None] = [None, None]
    dist.all_gather_object(told, dist.get_rank(), group=group)
    return told


def test_groups_of_the_same_ranks_meet_after_the_look(tmp_path):
    assert pool(4).run(survey_and_install, tmp_path) == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"gpu": "NVIDIA A100"}, "node3 has GPU NVIDIA A100, the others NVIDIA H100: exclude it"),
        ({"gpu_gib": 39.6}, "node3 has GPU memory (GiB) 40, the others 80: exclude it"),
        (
            {"across_gb_per_second": 4.0},
            "node3 sends at 4.00 GB/s to its neighbours, the median is 40.00: exclude it",
        ),
        ({"within_gb_per_second": 99.0}, "node3 sends at 99.00 GB/s within the node, the median is 250.00"),
        ({"cpus_per_rank": 0.125}, "node3 has 0.12 CPUs a rank: ask for more (--cpus-per-task)"),
        ({"clock_seconds": -7.3}, "the clock of node3 is -7.3 s off"),
        ({"free_gb": 0.4}, "node3 sees 0.4 GB free for the run's folder"),
    ],
)
def test_a_bad_node_is_named(change, line):
    nodes = [replace(GOOD, name=f"node{number}") for number in range(1, 5)]
    assert verdict(nodes) == []
    nodes[2] = replace(nodes[2], **change)
    assert len(verdict(nodes)) == 1
    assert line in verdict(nodes)[0]


def test_the_table_says_it_plainly():
    console = Console(width=200, file=io.StringIO())
    show([GOOD, replace(GOOD, name="node2")], console)
    text = console.file.getvalue()
    assert "node2" in text
    assert "250.00" in text
    assert "verdict: all nodes are alike, no faults" in text
