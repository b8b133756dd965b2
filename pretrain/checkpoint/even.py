"""Brings a state from the owners of its records to the ranks that write it: see `parts.py`."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from growth.state import TrainingState
from model.parameters import parameter_table
from pretrain.checkpoint.parts import Parts, Piece, divided
from pretrain.engine.distributed import device
from pretrain.engine.gather import BATCH, batches
from pretrain.engine.host_copy import HOST, moved


def evenly(state: TrainingState) -> Parts:
    """As many bytes on each rank that writes. Owners send what others write, some pieces at a time. Collective."""
    rank, table = dist.get_rank(), parameter_table(state.config)
    parts = Parts(state.config, state.steps, state.with_one_moment, divided(state.config, dist.get_world_size()))
    moving: dict[Piece, int] = {}
    for piece, writer in parts.writers.items():
        if writer != state.owners[piece.name]:
            moving[piece] = piece.rows * table[piece.name].numel // table[piece.name].shape[0]
        elif writer == rank:
            parts.tensors[piece] = _rows(state, piece)
    for batch in batches(moving, moving, BATCH):
        _exchange(batch, moving, state, parts)
    return parts


def _exchange(pieces: Sequence[Piece], numels: dict[Piece, int], state: TrainingState, parts: Parts) -> None:
    """One message from each owner to each writer. Adds what this rank writes to `parts`."""
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    numel_to, numel_from = [0] * num_ranks, [0] * num_ranks
    outgoing, coming = [torch.empty(0)], []
    for piece in sorted(pieces, key=lambda piece: parts.writers[piece]):  # stable: among a writer's, as in `pieces`
        if state.owners[piece.name] == rank:
            tensors = _rows(state, piece)
            numel_to[parts.writers[piece]] += numels[piece] * len(tensors)
            outgoing += [tensor.reshape(-1) for tensor in tensors]
    for piece in sorted(pieces, key=lambda piece: state.owners[piece.name]):
        if parts.writers[piece] == rank:
            kinds = parts.kinds(piece.name)
            numel_from[state.owners[piece.name]] += numels[piece] * len(kinds)
            coming += [piece] * len(kinds)
    outbox = moved(torch.cat(outgoing), device())
    inbox = torch.empty(sum(numel_from), device=device())
    dist.all_to_all_single(inbox, outbox, numel_from, numel_to)
    table = parameter_table(state.config)
    for piece, flat in zip(coming, moved(inbox, HOST).split([numels[piece] for piece in coming]), strict=True):
        tensor = flat.view(piece.rows, *table[piece.name].shape[1:])
        parts.tensors.setdefault(piece, []).append(tensor)


def _rows(state: TrainingState, piece: Piece) -> list[Tensor]:
    """Of a record that this rank owns."""
    return [tensor[piece.first : piece.first + piece.rows] for tensor in state.records[piece.name].tensors()]
