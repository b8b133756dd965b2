"""States in the memory of the nodes: saved more often than those on disk, for a run that starts again.

    /dev/shm/espalier-UID/RUN/NODE/     in memory; it outlives the ranks of the node
        step-00000412.start-3/          as a checkpoint on disk, with the parts that this node holds:
            index.json  SHA256SUMS      those of the whole state
            rank-00002.safetensors      of a rank of this node
            rank-00000.safetensors      of a rank of the node before it

Each rank writes its part and sends it to a rank of the next node: of two neighbours one may go. `memory_load.py` reads
the parts onto any number of ranks, as they are logical tensors.
"""

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from growth.state import TrainingState
from pretrain.checkpoint.files import part_name, write_index, write_part
from pretrain.checkpoint.parts import Parts
from pretrain.engine.place import node_name

T = TypeVar("T")

ROOT = Path("/dev/shm")
PARTIAL = ".partial"

SPARED = 0.1
"""The share of that file system that is left to others."""


def home_of(run_folder: Path) -> Path:
    """Where this node keeps the states of a run."""
    path = run_folder.resolve()
    run = f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    return ROOT / f"espalier-{os.getuid()}" / run / node_name()


def name_of(step: int, start: int) -> str:
    """Of a state of a step that this start of the run saved."""
    return f"step-{step:08d}.start-{start}"


def age(name: str) -> tuple[int, int]:
    """Start and step: what the later start saved is newer."""
    step, _, start = name.removeprefix("step-").partition(".start-")
    return int(start), int(step)


def names_in(home: Path) -> list[str]:
    """The states of which this node holds its part whole."""
    return [path.name for path in home.glob("step-*.start-*") if not path.name.endswith(PARTIAL)]


def is_private(home: Path) -> bool:
    """Whether nobody else can have written there: anyone may make folders in /dev/shm."""
    top = home.parents[1]
    return top.is_dir() and not top.is_symlink() and top.stat().st_uid == os.getuid()


class MemoryStore:
    """Saves states in memory. Every rank makes one, and all call its methods together.

    A thread on each rank writes that rank's part, sends it to the next node and receives one of the node before, in a
    process group of its own. The state before is dropped when the new one is whole on all nodes.
    """

    def __init__(self, home: Path):
        self.home = home
        self.fault: str | None = None
        """Why the last state could not be kept, until the next is saved."""
        self._group = dist.new_group(backend="gloo")
        self._nodes = self._gather(node_name())
        self._neighbours = neighbours(self._nodes)
        self._thread: threading.Thread | None = None

    def save(self, name: str, state: TrainingState, run: dict[str, Any]) -> None:
        """Returns once the thread has the state, which must not change afterwards. `run` is rank 0's."""
        self.flush()
        self.fault = None
        self._thread = threading.Thread(target=self._save, args=(name, state, run), name="memory", daemon=True)
        self._thread.start()

    def flush(self) -> None:
        """Waits until the last state is in memory, or could not be kept."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def drop(self, chosen: Callable[[str], bool] = lambda name: True) -> None:
        """Drops this node's states whose names are chosen (all by default), and what is unfinished."""
        if self._is_leader and self.home.is_dir():
            for path in self.home.iterdir():
                if path.name.endswith(PARTIAL) or chosen(path.name):
                    shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Leaves no empty folder behind."""
        self.flush()
        dist.destroy_process_group(self._group)
        if self._is_leader:
            with suppress(OSError):  # something is left
                for folder in (self.home, *self.home.parents[:2]):
                    folder.rmdir()

    @property
    def nodes(self) -> dict[str, list[str]]:
        """{part: the nodes that keep it}."""
        places = {rank: [node] for rank, node in enumerate(self._nodes)}
        for rank, neighbour in self._neighbours.items():
            places[rank].append(self._nodes[neighbour])
        return {part_name(rank): nodes for rank, nodes in places.items()}

    @property
    def _is_leader(self) -> bool:
        """The first rank of its node does what is done once."""
        return self._nodes.index(self._nodes[dist.get_rank()]) == dist.get_rank()

    # ---- in the thread ----

    def _save(self, name: str, state: TrainingState, run: dict[str, Any]) -> None:
        partial = self.home / (name + PARTIAL)
        try:
            sizes = self._gather(state.nbytes())
            self._together(lambda: self._prepare(partial, sizes))
            sums = self._together(lambda: write_part(partial, dist.get_rank(), Parts.of(state)))
            self._exchange(partial, [rank for rank, checksum in enumerate(sums) if checksum])
            message = [run]
            dist.broadcast_object_list(message, 0, self._group)
            self._together(
                lambda: self._complete(name, state, message[0], {rank: sum_ for rank, sum_ in enumerate(sums) if sum_})
            )
            self.drop(lambda other: other != name)
        except OSError as error:
            self.fault = str(error)
            self.drop(lambda other: False)
        except RuntimeError:
            pass  # another rank is gone, so this one will end too

    def _prepare(self, partial: Path, sizes: Sequence[int]) -> None:
        """Makes the folder, where there is room for the parts of the node's ranks and of those before it."""
        if not self._is_leader:
            return
        top, here = self.home.parents[1], self._nodes[dist.get_rank()]
        top.mkdir(mode=0o700, exist_ok=True)
        if not is_private(self.home):
            raise PermissionError(errno.EPERM, f"{top} belongs to somebody else")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        needed = sum(size for rank, size in enumerate(sizes) if self._nodes[rank] == here)
        needed += sum(sizes[rank] for rank, target in self._neighbours.items() if self._nodes[target] == here)
        disk = shutil.disk_usage(partial)
        free = max(min(disk.free - int(SPARED * disk.total), psutil.virtual_memory().available), 0)
        if free < needed:
            raise OSError(errno.ENOSPC, f"{ROOT} has room for {free / 1e9:.1f} GB, a state takes {needed / 1e9:.1f} GB")

    def _exchange(self, partial: Path, written: Sequence[int]) -> None:
        """Sends this rank's part, if it has one, to the next node, and receives those that other ranks send."""
        rank = dist.get_rank()
        own = partial / part_name(rank)
        sizes = self._together(lambda: own.stat().st_size if rank in written else 0)
        sources = [source for source, target in self._neighbours.items() if target == rank and source in written]

        def reserve() -> None:
            for source in sources:
                _reserve(partial / part_name(source), sizes[source])

        self._together(reserve)
        works = [dist.irecv(_mapped(partial / part_name(it), sizes[it]), it, self._group) for it in sources]
        if rank in self._neighbours and rank in written:
            works.append(dist.isend(_mapped(own, sizes[rank]), self._neighbours[rank], self._group))
        for work in filter(None, works):
            work.wait()

    def _complete(self, name: str, state: TrainingState, run: dict[str, Any], sums: dict[int, str]) -> None:
        if self._is_leader:
            partial = self.home / (name + PARTIAL)
            write_index(partial, Parts.of(state), run, sums)
            shutil.rmtree(self.home / name, ignore_errors=True)  # before a rollback
            partial.rename(self.home / name)

    def _together(self, action: Callable[[], T]) -> list[T]:
        """What `action` returns on every rank. Raises OSError on all where it does so on any."""
        mine: T | _Fault
        try:
            mine = action()
        except OSError as error:
            mine = _Fault(f"{node_name()}: {error.strerror or error}")
        everyones = self._gather(mine)
        results = [result for result in everyones if not isinstance(result, _Fault)]
        if len(results) < len(everyones):
            raise OSError(next(result for result in everyones if isinstance(result, _Fault)))
        return results

    def _gather(self, value: T) -> list[T]:
        values = [value] * dist.get_world_size()
        dist.all_gather_object(values, value, self._group)
        return values


class _Fault(str):
    """What went wrong on a rank."""


def neighbours(nodes: Sequence[str]) -> dict[int, int]:
    """{rank: the rank of the next node that keeps a copy of its part}, given every rank's node; empty for one node."""
    ranks_of: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        ranks_of.setdefault(node, []).append(rank)
    if len(ranks_of) == 1:
        return {}
    each = list(ranks_of.values())
    following = [*each[1:], each[0]]
    return {
        rank: others[index % len(others)]
        for ranks, others in zip(each, following, strict=True)
        for index, rank in enumerate(ranks)
    }


def _reserve(file: Path, size: int) -> None:
    """Takes the room for a file, so that writing to its memory cannot fail."""
    with file.open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, size)


def _mapped(file: Path, size: int) -> Tensor:
    """[size] uint8: the file itself, which is written to and read through memory."""
    return torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8)
