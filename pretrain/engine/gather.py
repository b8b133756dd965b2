"""Takes tensors from the ranks that hold parts of them to their owners, many in one message.

Who holds what follows from the layout. So nobody asks: every rank knows what it sends to whom, and what will come.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel.division import Division
from model.parallel.tensor import unshard
from pretrain.engine.distributed import device
from pretrain.engine.host_copy import HOST, moved

Name = TypeVar("Name")

BATCH = 2**25
"""Elements that travel at once, of all ranks together: 128 MiB in fp32."""


def gather(
    names: Iterable[str], division: Division, owners: Mapping[str, int], parts: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that this rank owns of `names`, whole and on the CPU. Collective.

    parts: this rank's [numel] of each; parameters of which it holds nothing may be absent.
    """
    for batch in batches(names, {name: spec.numel for name, spec in division.table.items()}, BATCH):
        yield from _gather_batch(batch, division, owners, parts)


def batches(names: Iterable[Name], numels: Mapping[Name, int], limit: int) -> Iterator[list[Name]]:
    """Of `limit` elements at most, or of one parameter."""
    batch: list[Name] = []
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
        _, numel = division.span(name, rank, owners[name])
        if numel:
            numel_to[owners[name]] += numel
            outgoing.append(moved(parts[name], device()))
    own = [name for name in names if owners[name] == rank]
    sources = range(num_ranks if own else 0)  # a rank of a thousand owns little
    spans = [[division.span(name, source, rank) for name in own] for source in sources]
    numel_from = [sum(numel for _, numel in from_source) for from_source in spans] or [0] * num_ranks

    outbox = torch.cat(outgoing) if outgoing else torch.empty(0, device=device())
    inbox = torch.empty(sum(numel_from), device=device())
    dist.all_to_all_single(inbox, outbox, numel_from, numel_to)

    shards = {name: [torch.empty(shape) for shape in division.shard_shapes(name)] for name in own}
    flat = moved(inbox, HOST)
    first = 0
    for source, from_source in enumerate(spans):
        for name, (start, numel) in zip(own, from_source, strict=True):
            if numel:
                shard = shards[name][source % len(shards[name])]
                shard.view(-1)[start : start + numel].copy_(flat[first : first + numel])
                first += numel
    for name in own:
        yield name, unshard(division.table[name], shards.pop(name))
