"""States in the memory of nodes: whole without one of them, exact on other ranks, and never those of another past."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from pretrain.checkpoint import lineage, memory
from pretrain.checkpoint.memory import MemoryStore, home_of, name_of
from pretrain.checkpoint.memory_load import belongs_to, load_from_memory
from tests.support.saved import flip_a_bit, state_at
from tests.support.workers import pool

RUN = Path("runs/some")


@contextmanager
def on_node(root: Path, node: str) -> Iterator[None]:
    """This rank is on a node with memory of its own."""
    with patch.object(memory, "ROOT", root / node), patch.dict(os.environ, SLURMD_NODENAME=node):
        (root / node).mkdir(parents=True, exist_ok=True)
        yield


def save(root: Path, nodes: list[str], steps: list[int], start: int = 1) -> None:
    with on_node(root, nodes[dist.get_rank()]):
        store = MemoryStore(home_of(RUN))
        for step in steps:
            origin = {"disk": "", "holder": "", "nodes": store.nodes}
            run = {"progress": {"step": step}, "start": start, "memory": origin}
            store.save(name_of(step, start), state_at(step), run)
        store.close()
        assert store.fault is None


def load(root: Path, nodes: list[str], belongs=lambda run: True) -> tuple[int | None, list[str]]:
    """The step of the state that is found, after a look at every bit of it; and what was reported."""
    lines: list[str] = []
    with on_node(root, nodes[dist.get_rank()]):
        found = load_from_memory(home_of(RUN), belongs, lines.append)
    if found is None:
        return None, lines
    _, state, run = found
    step = run["progress"]["step"]
    expected = state_at(step)
    assert state.records.keys() == expected.records.keys()
    for name, record in expected.records.items():
        assert all(torch.equal(*pair) for pair in zip(record.tensors(), state.records[name].tensors(), strict=True))
        assert state.records[name].step == record.step
    return step, lines


NODES = ["n1", "n1", "n2", "n3"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    pool(4).run(save, root, NODES, [10, 20])
    return root


@pytest.fixture
def root(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / "nodes")
    return tmp_path / "nodes"


@pytest.mark.parametrize(
    "nodes",
    [
        NODES,
        ["n1", "n2"],  # n3 is lost
        ["n2", "n3", "n3", "n3"],  # n1 is lost, and its two ranks with it
        ["n3", "new", "new", "n2"],
    ],
)
def test_without_one_node_the_state_is_whole_on_any_ranks(saved, nodes):
    for step, lines in pool(len(nodes)).run(load, saved, nodes):
        assert step == 20
        assert lines == []


def test_without_two_neighbours_it_is_not_and_that_is_said(saved):
    (step, lines), (_, silent) = pool(2).run(load, saved, ["n3", "n3"])
    assert step is None
    assert lines == [
        "the state of step 20 in memory is not whole: rank-00000.safetensors, which n1 and n2 had, is lost or damaged"
    ]
    assert silent == []


def test_only_the_newest_state_is_kept(root):
    homes = [path.parent for path in root.rglob("step-*")]
    assert sorted(path.name for home in homes for path in home.iterdir()) == ["step-00000020.start-1"] * 3


def test_a_damaged_part_is_read_from_the_neighbour(root):
    for part in root.glob("n1/*/*/n1/*/rank-0000[01].safetensors"):
        flip_a_bit(part)
    assert [step for step, _ in pool(2).run(load, root, ["n1", "n2"])] == [20, 20]
    (copy,) = root.glob("n2/*/*/n2/*/rank-00001.safetensors")
    flip_a_bit(copy)
    (step, lines), _ = pool(2).run(load, root, ["n1", "n2"])
    assert step is None
    assert lines[0].endswith("rank-00001.safetensors, which n1 and n2 had, is lost or damaged")


def test_what_was_not_finished_or_is_somebody_elses_is_not_read(root):
    for home in [path.parent for path in root.rglob("step-*")]:
        (home / "step-00000020.start-1").rename(home / "step-00000020.start-1.partial")
    assert [step for step, _ in pool(2).run(load, root, ["n1", "n2"])] == [None, None]
    with patch.object(os, "getuid", lambda: os.geteuid() + 1), on_node(root, "n1"):
        assert not memory.is_private(memory.ROOT / f"espalier-{os.geteuid()}" / "run" / "n1")


def save_without_room(root: Path, nodes: list[str]) -> tuple[str | None, list[str]]:
    """What is said, and what there is, when one node has no room for a second state."""
    save(root, nodes, [10])
    little = SimpleNamespace(total=10**6, used=10**6 - 1000, free=1000)
    with on_node(root, nodes[dist.get_rank()]):
        store = MemoryStore(home_of(RUN))
        with patch.object(
            shutil, "disk_usage", lambda path: little if "n2" in str(path) else SimpleNamespace(total=0, free=10**9)
        ):
            store.save(name_of(20, 1), state_at(20), {})
            store.flush()
        dist.barrier()
        left = [path.name for path in home_of(RUN).iterdir()]
        store.close()
    return store.fault, left


def test_where_there_is_no_room_the_state_before_stays(tmp_path):
    for fault, left in pool(2).run(save_without_room, tmp_path, ["n1", "n2"]):
        assert fault == f"n2: {tmp_path / 'n2'} has room for 0.0 GB, a state takes 0.0 GB"
        assert left == ["step-00000010.start-1"]


@pytest.mark.parametrize(
    ("changes", "belongs"),
    [
        ({}, True),
        ({"progress": {"step": 8}}, True),  # on disk too
        ({"progress": {"step": 7}}, False),  # older than the checkpoint on disk
        ({"memory": {"disk": "step-00000012", "holder": "start 1"}}, False),  # `latest` was set back since
        ({"memory": {"disk": "", "holder": "start 1"}}, True),  # the checkpoint was finished after it
        ({"memory": {"disk": "step-00000008", "holder": "another start 1"}}, False),  # of a folder that is gone
        ({"progress": {"step": 21}}, False),  # start 2 began at step 20
        ({"progress": {"step": 21}, "start": 2, "memory": {"disk": "", "holder": "start 2"}}, True),
        ({"start": 3, "memory": {"disk": "", "holder": ""}}, False),
    ],
)
def test_a_state_counts_only_as_what_the_run_goes_on_with(tmp_path, changes, belongs):
    state = {"progress": {"step": 20}, "start": 1, "memory": {"disk": "step-00000008", "holder": "start 1"}}
    leases = [
        SimpleNamespace(start=1, began_at=0, holder="start 1"),
        SimpleNamespace(start=2, began_at=20, holder="start 2"),
    ]
    checkpoint = tmp_path / "checkpoints" / "step-00000008"
    checkpoint.mkdir(parents=True)
    (checkpoint / "index.json").write_text('{"run": {"start": 1}}')
    with patch.object(lineage, "read_leases", lambda folder: leases if folder == tmp_path / "leases" else []):
        assert belongs_to(tmp_path / "leases", tmp_path / "checkpoints", state | changes) == belongs
