"""This process's place among the tensor-parallel and data-parallel ranks.

We make only the two kinds of groups that are used: megatron-core's `initialize_model_parallel` makes two dozen, and
each gloo group is a thread that wakes a hundred times a second. megatron-core's mappings take ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.lazy import dist

if TYPE_CHECKING:
    from model.parallel.tensor import TensorParallel


@dataclass(frozen=True)
class ParallelLayout:
    """How the processes are divided. Consecutive ranks form a tensor-parallel group."""

    tensor_parallel: int = 1
    data_parallel: int = 1

    def install(self) -> TensorParallel:
        """Makes this the current layout and returns this rank's tensor-parallel place. Collective the first time."""
        global _installed
        assert self.tensor_parallel * self.data_parallel == dist.get_world_size(), self
        _installed = _places.get(self) or _places.setdefault(self, _Place.of(self))
        return _installed.tensor_parallel

    def data_parallel_rank(self, rank: int) -> int:
        return rank // self.tensor_parallel

    @staticmethod
    def current() -> ParallelLayout:
        return _current().layout


@dataclass(frozen=True)
class _Place:
    """This rank's groups under one layout."""

    layout: ParallelLayout
    tensor_parallel: TensorParallel
    data_parallel_group: dist.ProcessGroup

    @classmethod
    def of(cls, layout: ParallelLayout) -> _Place:
        """Makes this rank's own groups alone: a call for each of all ranks' would take minutes for a thousand."""
        from model.parallel.tensor import TensorParallel

        size, rank = layout.tensor_parallel, dist.get_rank()
        first = rank - rank % size
        tensor_group = dist.new_group(range(first, first + size), use_local_synchronization=True)
        data_group = dist.new_group(range(rank % size, dist.get_world_size(), size), use_local_synchronization=True)
        return cls(layout, TensorParallel(rank % size, size, tensor_group), data_group)


_places: dict[ParallelLayout, _Place] = {}
"""Every layout this process has used. A run has few, and a group costs time to make and threads to keep."""

_installed: _Place | None = None


def _current() -> _Place:
    assert _installed is not None, "no layout is installed"
    return _installed


def forget() -> None:
    """Before the process group ends, to which all groups here belong."""
    global _installed
    _places.clear()
    _installed = None


def data_parallel_group() -> dist.ProcessGroup:
    """The ranks that hold the same part of the model and read different rows."""
    return _current().data_parallel_group


class ModelParallelUnit:
    """The current layout under the method names that DeepSpeed 0.19.8 calls (its `mpu`).

    Model parallel means tensor parallel here. `initialize_sequence_parallel` must stay absent: it would switch
    DeepSpeed to Ulysses.
    """

    def get_tensor_model_parallel_rank(self) -> int:
        return _current().tensor_parallel.rank

    def get_tensor_model_parallel_world_size(self) -> int:
        return _current().tensor_parallel.size

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup | None:
        return _current().tensor_parallel.group

    get_model_parallel_rank = get_tensor_model_parallel_rank
    get_model_parallel_world_size = get_tensor_model_parallel_world_size
    get_model_parallel_group = get_tensor_model_parallel_group

    def get_data_parallel_rank(self) -> int:
        return dist.get_rank(data_parallel_group())

    def get_data_parallel_world_size(self) -> int:
        return _current().layout.data_parallel

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return data_parallel_group()

    def get_data_parallel_group_ranks(self) -> list[int]:
        return dist.get_process_group_ranks(data_parallel_group())
