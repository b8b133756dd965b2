"""Reads a state back from the memory of the nodes, onto any number of ranks: see `memory.py`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import safe_open

from growth.state import Record, TrainingState, assign_owners
from model.config import BertConfig
from model.errors import UserError
from model.parameters import parameter_table
from pretrain.checkpoint.files import INDEX, fault_in, read_checksums, read_index, with_one_moment
from pretrain.checkpoint.lineage import holder_of, overtaken
from pretrain.checkpoint.memory import age, is_private, names_in
from pretrain.checkpoint.store import STEP, newest_name
from pretrain.engine.agreement import from_rank_0
from pretrain.engine.distributed import device
from pretrain.engine.host_copy import HOST, moved
from pretrain.engine.place import node_name

T = TypeVar("T")

Report = Callable[[str], None]


def load_from_memory(
    home: Path, belongs: Callable[[dict[str, Any]], bool], report: Report
) -> tuple[Path, TrainingState, dict[str, Any]] | None:
    """The newest state that the nodes of these ranks hold whole; None where there is none. Collective.

    `belongs` says on rank 0, of what was saved with a state, whether it is a state of the run as it is now. Rank 0
    reports those of which a part is missing or damaged.
    """
    nodes, held = _gather(node_name()), _gather(names_in(home) if is_private(home) else [])
    for name in sorted({name for names in held for name in names}, key=age, reverse=True):
        first = next(rank for rank, names in enumerate(held) if name in names)
        described = _broadcast(_described(home / name) if dist.get_rank() == first else None, first)
        if described is None:
            continue
        index, sums = described
        if not from_rank_0(dist.get_rank() == 0 and belongs(index["run"])):
            continue
        holders = _intact(home / name, sums, nodes)
        lost = [file for file in sums if file not in holders]
        if not lost:
            return home / name, _read(home / name, index, holders), index["run"]
        if dist.get_rank() == 0:
            kept_on = " and ".join(index["run"]["memory"]["nodes"][lost[0]])
            step = index["run"]["progress"]["step"]
            report(
                f"the state of step {step:,} in memory is not whole: {lost[0]}, which {kept_on} had, is lost or damaged"
            )
    return None


def belongs_to(leases: Path, checkpoints: Path, saved: dict[str, Any]) -> bool:
    """Whether a state, of which `saved` is known, is what the run of these folders goes on with.

    It is not older than the newest checkpoint on disk, which has not gone back since, and the start that saved it is
    one of this run that no later start has overtaken.
    """
    step, newest = saved["progress"]["step"], newest_name(checkpoints)
    return (
        saved["memory"]["disk"] <= newest <= STEP.format(step)
        and saved["memory"]["holder"] == holder_of(leases, saved["start"]) != ""
        and overtaken(leases, step, lambda: saved["start"]) is None
    )


def _described(path: Path) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The index of a state, and the checksums of its parts; None where they are damaged."""
    sums = read_checksums(path)
    if INDEX not in sums or fault_in(path / INDEX, sums.pop(INDEX)):
        return None
    try:
        return read_index(path), sums
    except UserError:  # of another version
        return None


def _intact(path: Path, sums: Mapping[str, str], nodes: Sequence[str]) -> dict[str, list[int]]:
    """{part: the ranks that can read it}. The ranks of a node share the work on what it holds. Collective."""
    fellows = [rank for rank, node in enumerate(nodes) if node == nodes[dist.get_rank()]]
    here = [file for file in sums if (path / file).is_file()]
    mine = here[fellows.index(dist.get_rank()) :: len(fellows)]
    holders: dict[str, list[int]] = {}
    for rank, files in enumerate(_gather([file for file in mine if fault_in(path / file, sums[file]) is None])):
        for file in files:
            holders.setdefault(file, []).extend(other for other, node in enumerate(nodes) if node == nodes[rank])
    return holders


def _read(path: Path, index: dict[str, Any], holders: Mapping[str, list[int]]) -> TrainingState:
    """The state, each record on its owner among these ranks. One that cannot read it gets it sent. Collective."""
    config, parameters, rank = BertConfig(**index["config"]), index["parameters"], dist.get_rank()
    table = parameter_table(config)
    steps = {name: parameters[name]["step"] for name in table}
    owners = assign_owners(config, dist.get_world_size())
    state = TrainingState(config, owners, steps, with_one_moment=with_one_moment(parameters))
    opened: dict[str, Any] = {}
    for number, (name, spec) in enumerate(table.items()):
        file, owner = parameters[name]["file"], state.owners[name]  # whole: each owner wrote its records
        readers = holders[file]
        reader = owner if owner in readers else readers[number % len(readers)]
        tensors = torch.empty(0)
        if rank == reader:
            opened[file] = opened.get(file) or safe_open(path / file, framework="pt")
            kept = (opened[file].get_tensor(f"{name}/{kind}") for kind in state.kinds(name))
            tensors = torch.stack([tensor.view(spec.shape) for tensor in kept])
            if reader != owner:
                dist.send(moved(tensors, device()), owner)
        if rank == owner:
            if reader != owner:
                received = torch.empty(len(state.kinds(name)), *spec.shape, device=device())
                dist.recv(received, reader)
                tensors = moved(received, HOST)
            state.records[name] = Record.of(tensors.unbind(), steps[name])
    return state


def _gather(value: T) -> list[T]:
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _broadcast(value: T, source: int) -> T:
    values = [value]
    dist.broadcast_object_list(values, source)
    return values[0]
