"""Which rank holds which elements of each parameter, once tensor parallelism and ZeRO have cut it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from model.parallel.layout import ParallelLayout
from model.parameter_spec import ParameterSpec


@dataclass(frozen=True)
class Cut:
    """How the data-parallel ranks divide one parameter's flattened shard: along with a flat tensor that holds it, of
    which each has as many elements."""

    offset: int
    """Of the shard's first element in that tensor."""
    run: int
    """Elements of that tensor on each rank."""
    copied: bool = False
    """Nothing is cut: each of them has all of it (ZeRO 0)."""

    def span(self, data_parallel_rank: int, numel: int) -> tuple[int, int]:
        """First element and number of elements of the shard [numel] that the rank holds."""
        if self.copied:
            return 0, numel
        first = self.run * data_parallel_rank - self.offset
        start, end = (min(max(edge, 0), numel) for edge in (first, first + self.run))
        return start, end - start


@dataclass(frozen=True)
class Division:
    table: Mapping[str, ParameterSpec]
    layout: ParallelLayout
    cuts: Mapping[str, Cut]

    def held(self, name: str, rank: int) -> tuple[int, int]:
        """First element and number of elements, in the rank's flattened tensor-parallel shard."""
        numel = prod(self.table[name].local_shape(self.layout.tensor_parallel))
        return self.cuts[name].span(self.layout.data_parallel_rank(rank), numel)

    def span(self, name: str, rank: int, owner: int) -> tuple[int, int]:
        """What the rank gives where the owner gathers all: what it holds, and of equal copies only those in the owner's
        own row and column of ranks."""
        is_split, size = self.table[name].tensor_parallel_axis is not None, self.layout.tensor_parallel
        is_copy = (rank % size != owner % size and not is_split) or (
            rank // size != owner // size and self.cuts[name].copied
        )
        return (0, 0) if is_copy else self.held(name, rank)

    def shard_shapes(self, name: str) -> list[tuple[int, ...]]:
        """One for each tensor-parallel rank; of a parameter that is not split, one."""
        is_split = self.table[name].tensor_parallel_axis is not None
        shape = self.table[name].local_shape(self.layout.tensor_parallel)
        return [shape] * (self.layout.tensor_parallel if is_split else 1)
