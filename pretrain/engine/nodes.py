"""A look at the machines before a run: what each node has, how fast ranks reach each other, which node is bad."""

import os
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from pretrain.engine.distributed import computes_on_gpu, device
from pretrain.engine.place import node_name

SLOW = 0.5
"""A node is slow if it has less than this fraction of the median bandwidth."""

CLOCK_SECONDS = 1.0
"""How far apart clocks may be: file times and logs are compared across nodes."""

ROOM_GB = 10.0

GIB = 2**30


@dataclass(frozen=True)
class Node:
    """What one node has."""

    name: str
    ranks: int
    cpus_per_rank: float
    gpu: str
    gpu_gib: float
    clock_seconds: float
    """How far its clock is ahead of the first node's."""
    free_gb: float
    """On the disk of the run's folder."""
    within_gb_per_second: float | None
    """From rank to rank in a ring of the node's, the slowest; None for a single rank."""
    across_gb_per_second: float | None
    """With a neighbouring node, the better of two neighbours; None for a single node."""


def survey(folder: Path) -> list[Node]:
    """Examines every node that has a rank, in rank order. Collective; takes a second or two."""
    rank = dist.get_rank()
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, node_name())
    ranks_of = {name: [rank for rank, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
    nodes = list(ranks_of)
    within = _bandwidth(ranks_of[names[rank]])
    # A bad cable slows both neighbours' shared link; only a bad node has no fast link at all.
    links = [(nodes[i], nodes[(i + 1) % len(nodes)]) for i in range(len(nodes) if len(nodes) > 2 else len(nodes) - 1)]
    # Every second link at once: in a row, each node would wait for all before it.
    pairs = {link: [ranks_of[name][0] for name in link] for link in (*links[::2], *links[1::2])}
    speeds = {link: _bandwidth(pair) for link, pair in pairs.items() if rank in pair}
    dist.barrier()
    mine = {"clock": time.time(), **_hardware(len(ranks_of[names[rank]]), folder)}
    mine |= {"within": within, "links": speeds}
    gathered: list[dict[str, Any]] = [{}] * len(names)
    dist.all_gather_object(gathered, mine)
    # Both ends of a link have timed it: it is as fast as the slower end says.
    agreed = {link: min(gathered[ranks_of[name][0]]["links"][link] for name in link) for link in links}
    return [_node(name, nodes, ranks_of, gathered, agreed) for name in nodes]


def verdict(nodes: Sequence[Node]) -> list[str]:
    """A line for each fault, which names the node; empty when all is well."""
    lines = []
    lines += _odd_ones(nodes, "GPU", lambda node: node.gpu)
    lines += _odd_ones(nodes, "GPU memory (GiB)", lambda node: round(node.gpu_gib))
    lines += _odd_ones(nodes, "number of ranks", lambda node: node.ranks)
    lines += _slow_ones(nodes, "within the node", lambda node: node.within_gb_per_second)
    lines += _slow_ones(nodes, "to its neighbours", lambda node: node.across_gb_per_second)
    for node in nodes:
        if node.cpus_per_rank < 1:
            lines.append(f"{node.name} has {node.cpus_per_rank:.2g} CPUs a rank: ask for more (--cpus-per-task)")
        if abs(node.clock_seconds) > CLOCK_SECONDS:
            lines.append(f"the clock of {node.name} is {node.clock_seconds:+.1f} s off")
        if node.free_gb < ROOM_GB:
            lines.append(f"{node.name} sees {node.free_gb:.1f} GB free for the run's folder")
    return lines


def show(nodes: Sequence[Node], console: Console | None = None) -> None:
    """Prints the table and the verdict."""
    console = console or Console(highlight=False, soft_wrap=True)
    table = Table("node", "ranks", "CPUs a rank", "GPU", "within GB/s", "across GB/s", "clock s", "free GB", box=None)
    for node in nodes:
        gpu = f"{node.gpu} {node.gpu_gib:.0f} GiB" if node.gpu_gib else "none"
        bandwidths = ("-" if value is None else f"{value:.2f}" for value in _bandwidths(node))
        numbers = (str(node.ranks), f"{node.cpus_per_rank:.1f}", gpu, *bandwidths)
        table.add_row(node.name, *numbers, f"{node.clock_seconds:+.2f}", f"{node.free_gb:,.0f}")
    console.print(table)
    faults = verdict(nodes)
    console.print("verdict: " + ("; ".join(faults) if faults else "all nodes are alike, no faults"))


def places_of_ranks() -> list[str]:
    """Every rank with its node, as people look for it. Collective."""
    places: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(places, f"rank {dist.get_rank()} on {node_name()}")
    return places


def _bandwidths(node: Node) -> tuple[float | None, float | None]:
    return node.within_gb_per_second, node.across_gb_per_second


def _hardware(ranks_here: int, folder: Path) -> dict[str, Any]:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    found = {
        "cpus_per_rank": len(os.sched_getaffinity(0)) / ranks_here,
        "free_gb": shutil.disk_usage(existing).free / 1e9,
        "gpu": "",
        "gpu_gib": 0.0,
    }
    if computes_on_gpu():
        properties = torch.cuda.get_device_properties(device())
        found |= {"gpu": properties.name, "gpu_gib": properties.total_memory / GIB}
    return found


def _bandwidth(ranks: Sequence[int]) -> float | None:
    """At which this rank sends to the next of a ring and takes from the one before, at once, in GB/s. Each rank of the
    ring must call this. None for a single rank.

    In the group of all ranks. NCCL splits a group for each ring off that one, for which all ranks must call in the same
    order; and torch names the next group of the same ranks alike, so that they could meet at an address that is gone.
    """
    if len(ranks) < 2:
        return None
    place = ranks.index(dist.get_rank())
    numel = (256 if computes_on_gpu() else 8) * 2**20 // 4
    outgoing, incoming = torch.ones(numel, device=device()), torch.empty(numel, device=device())
    seconds = []
    for _ in range(4):  # the first one sets up connections
        start = time.perf_counter()
        messages = [
            dist.P2POp(dist.isend, outgoing, ranks[(place + 1) % len(ranks)]),
            dist.P2POp(dist.irecv, incoming, ranks[place - 1]),
        ]
        for request in dist.batch_isend_irecv(messages):
            request.wait()
        if computes_on_gpu():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return outgoing.nbytes / 1e9 / min(seconds[1:])


def _node(
    name: str,
    nodes: list[str],
    ranks_of: dict[str, list[int]],
    gathered: list[dict[str, Any]],
    speeds: dict[tuple[str, str], float],
) -> Node:
    """`speeds`: of the links between nodes, in GB/s."""
    ranks = ranks_of[name]
    found = gathered[ranks[0]]
    speeds_within = [gathered[rank]["within"] for rank in ranks]
    links = [speed for link, speed in speeds.items() if name in link]
    return Node(
        name=name,
        ranks=len(ranks),
        cpus_per_rank=found["cpus_per_rank"],
        gpu=found["gpu"],
        gpu_gib=min(gathered[rank]["gpu_gib"] for rank in ranks),
        clock_seconds=found["clock"] - gathered[ranks_of[nodes[0]][0]]["clock"],
        free_gb=found["free_gb"],
        within_gb_per_second=min(speeds_within) if len(ranks) > 1 else None,
        across_gb_per_second=max(links) if links else None,
    )


def _odd_ones(nodes: Sequence[Node], what: str, value: Callable[[Node], Any]) -> list[str]:
    """Nodes that differ from most."""
    usual = Counter(map(value, nodes)).most_common(1)[0][0]
    return [
        f"{node.name} has {what} {value(node) or 'none'}, the others {usual or 'none'}: exclude it"
        for node in nodes
        if value(node) != usual
    ]


def _slow_ones(nodes: Sequence[Node], where: str, speed: Callable[[Node], float | None]) -> list[str]:
    speeds = {node.name: speed(node) for node in nodes}
    known = [value for value in speeds.values() if value is not None]
    median = statistics.median(known) if known else 0.0
    return [
        f"{name} sends at {value:.2f} GB/s {where}, the median is {median:.2f}: exclude it"
        for name, value in speeds.items()
        if value is not None and value < SLOW * median
    ]
