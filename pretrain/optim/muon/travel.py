"""Takes parts of matrices to their homes and back: one message in each direction for a round, on its way while others
compute."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel.tensor import shard, unshard
from pretrain.optim.muon.homes import Round, Span, Spans
from pretrain.optim.muon.matrices import Matrix


@dataclass
class Arriving:
    """A message under way."""

    inbox: Tensor
    spans: Spans
    work: dist.Work | None
    outbox: Tensor
    """Kept until the message has arrived."""

    def parts(self) -> list[tuple[Span, Tensor]]:
        """Waits; what has come, [numel] each."""
        if self.work is not None:
            self.work.wait()
        found, first = [], 0
        for _, span in _in_order(self.spans):
            found.append((span, self.inbox.narrow(0, first, span.numel)))
            first += span.numel
        return found


def send(outgoing: Spans, incoming: Spans, part: Callable[[Span], Tensor], like: Tensor) -> Arriving:
    """Every rank's spans to the ranks that they go to. `part` gives what goes out, in the dtype and on the device of
    `like`. Collective over all ranks; does not wait."""
    num_ranks = dist.get_world_size()
    parts = [part(span) for _, span in _in_order(outgoing)]
    outbox = torch.cat(parts) if parts else like.new_empty(0)
    numel_to, numel_from = (
        [sum(span.numel for span in spans.get(rank, ())) for rank in range(num_ranks)] for spans in (outgoing, incoming)
    )
    inbox = like.new_empty(sum(numel_from))
    work = dist.all_to_all_single(inbox, outbox, numel_from, numel_to, async_op=True)
    return Arriving(inbox, incoming, work, outbox)


def put_together(round: Round, parts: Iterable[tuple[Span, Tensor]], tensor_parallel: int) -> list[Tensor]:
    """The round's matrices that are at home here, [count, rows, columns] each, from all their parts."""
    found: dict[Matrix, list[tuple[Span, Tensor]]] = {matrix: [] for matrix in round.homed}
    for span, part in parts:
        found[span.matrix].append((span, part))
    return [matrix.view(_whole(matrix, pieces, tensor_parallel)) for matrix, pieces in found.items()]


def _whole(matrix: Matrix, pieces: list[tuple[Span, Tensor]], tensor_parallel: int) -> Tensor:
    spec = matrix.spec
    if len(pieces) == 1:  # it lies here whole
        return pieces[0][1].view(spec.shape)
    num_shards = 1 if spec.tensor_parallel_axis is None else tensor_parallel
    shape = list(spec.shape)
    if spec.tensor_parallel_axis is not None:
        shape[spec.tensor_parallel_axis] //= num_shards
    shards = [pieces[0][1].new_empty(shape) for _ in range(num_shards)]
    for span, part in pieces:
        shards[span.shard].view(-1).narrow(0, span.start, span.numel).copy_(part)
    return unshard(spec, shards)


def taken_apart(matrix: Matrix, whole: Tensor, tensor_parallel: int) -> list[Tensor]:
    """The flattened shards of a matrix [count, rows, columns]."""
    spec = matrix.spec
    num_shards = 1 if spec.tensor_parallel_axis is None else tensor_parallel
    tensor = matrix.restore(whole)
    return [shard(spec, tensor, index, num_shards).reshape(-1) for index in range(num_shards)]


def _in_order(spans: Spans) -> list[tuple[int, Span]]:
    """By rank; those of a rank in the order of the matrices, which is the same at both ends."""
    return [(rank, span) for rank in sorted(spans) for span in spans[rank]]
