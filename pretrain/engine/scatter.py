"""The way back of gather.py: from the owners of whole tensors to the ranks that hold parts of them."""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel.division import Division
from model.parallel.tensor import shard
from pretrain.engine.distributed import device
from pretrain.engine.host_copy import moved


def scatter(
    names: Sequence[str], division: Division, owners: Mapping[str, int], whole: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """This rank's part [numel] of each of `names`, in one message from each owner. Collective.

    whole: the tensors that this rank owns. Parameters of which this rank holds nothing are left out.
    """
    rank, num_ranks, num_shards = dist.get_rank(), dist.get_world_size(), division.layout.tensor_parallel
    shards = {
        name: [shard(division.table[name], whole[name], number, num_shards).reshape(-1) for number in range(num_shards)]
        for name in names
        if owners[name] == rank
    }
    outgoing, numel_to = [torch.empty(0)], [0] * num_ranks
    for destination in range(num_ranks if shards else 0):
        parts = []
        for name, of_ranks in shards.items():
            start, numel = division.held(name, destination)
            parts.append(of_ranks[destination % num_shards][start : start + numel])
        numel_to[destination] = sum(part.numel() for part in parts)
        outgoing += parts
    held = {name: division.held(name, rank)[1] for name in sorted(names, key=lambda name: owners[name])}
    numel_from = [0] * num_ranks
    for name, numel in held.items():
        numel_from[owners[name]] += numel
    outbox = moved(torch.cat(outgoing), device())
    inbox = torch.empty(sum(numel_from), device=device())
    dist.all_to_all_single(inbox, outbox, numel_from, numel_to)
    for (name, numel), part in zip(held.items(), inbox.split(list(held.values())), strict=True):
        if numel:
            yield name, part
