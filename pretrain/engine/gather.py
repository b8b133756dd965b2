"""Takes tensors from the ranks that hold parts of them to their owners, many in one message.

Who holds what follows from the layout. So nobody asks: every rank knows what it sends to whom, and what will come.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel.layout import ParallelLayout
from model.parallel.tensor import local_shape, unshard
from model.parameter_spec import ParameterSpec
from pretrain.engine.distributed import device

BATCH = 2**25
"""Elements that travel at once, of all ranks together: 128 MiB in fp32."""


@dataclass(frozen=True)
class Cut:
    """How the data-parallel ranks divide one parameter's flattened shard: along with a flat tensor that holds it, of
    which each has as many elements."""

    offset: int
    """Of the shard's first element in that tensor."""
    run: int
    """Elements of that tensor on each rank."""

    def span(self, data_parallel_rank: int, numel: int) -> tuple[int, int]:
        """First element and number of elements of the shard [numel] that the rank holds."""
        first = self.run * data_parallel_rank - self.offset
        start, end = (min(max(edge, 0), numel) for edge in (first, first + self.run))
        return start, end - start


@dataclass(frozen=True)
class Division:
    """Which rank gives which elements of each parameter. Of equal copies, the first rank's is given."""

    table: Mapping[str, ParameterSpec]
    layout: ParallelLayout
    cuts: Mapping[str, Cut]

    def span(self, name: str, rank: int) -> tuple[int, int]:
        """First element and number of elements, in the rank's flattened tensor-parallel shard."""
        spec = self.table[name]
        if spec.tensor_parallel_axis is None and rank % self.layout.tensor_parallel:
            return 0, 0
        return self.held(name, rank)

    def held(self, name: str, rank: int) -> tuple[int, int]:
        """The same, of equal copies on every rank that has one."""
        return self.cuts[name].span(self.layout.data_parallel_rank(rank), self._shape(name).numel())

    def empty_shards(self, name: str) -> list[Tensor]:
        """One for each tensor-parallel rank; of a parameter that is not split, one."""
        is_split = self.table[name].tensor_parallel_axis is not None
        return [torch.empty(self._shape(name)) for _ in range(self.layout.tensor_parallel if is_split else 1)]

    def _shape(self, name: str) -> torch.Size:
        return torch.Size(local_shape(self.table[name], self.layout.tensor_parallel))


def gather(
    names: Iterable[str], division: Division, owners: Mapping[str, int], parts: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that this rank owns of `names`, whole and on the CPU. Collective.

    parts: this rank's [numel] of each; parameters of which it holds nothing may be absent.
    """
    for batch in batches(names, {name: spec.numel for name, spec in division.table.items()}, BATCH):
        yield from _gather_batch(batch, division, owners, parts)


def batches(names: Iterable[str], numels: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    """Of `limit` elements at most, or of one parameter."""
    batch: list[str] = []
    numel = 0
    for name in names:
        if batch and numel + numels[name] > limit:
            yield batch
            batch, numel = [], 0
        batch.append(name)
        numel += numels[name]
    if batch:
        yield batch


def _gather_batch(
    names: list[str], division: Division, owners: Mapping[str, int], parts: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    numel_to = [0] * num_ranks
    outgoing = []
    for name in sorted(names, key=lambda name: owners[name]):  # a stable order: among an owner's, that of `names`
        _, numel = division.span(name, rank)
        if numel:
            numel_to[owners[name]] += numel
            outgoing.append(parts[name].to(device()))
    own = [name for name in names if owners[name] == rank]
    spans = [[division.span(name, source) for name in own] for source in range(num_ranks)]
    numel_from = [sum(numel for _, numel in from_source) for from_source in spans]

    outbox = torch.cat(outgoing) if outgoing else torch.empty(0, device=device())
    inbox = torch.empty(sum(numel_from), device=device())
    dist.all_to_all_single(inbox, outbox, numel_from, numel_to)

    shards = {name: division.empty_shards(name) for name in own}
    flat = inbox.cpu()
    first = 0
    for source, from_source in enumerate(spans):
        for name, (start, numel) in zip(own, from_source, strict=True):
            if numel:
                shard = shards[name][source % division.layout.tensor_parallel]
                shard.view(-1)[start : start + numel].copy_(flat[first : first + numel])
                first += numel
    for name in own:
        yield name, unshard(division.table[name], shards.pop(name))
