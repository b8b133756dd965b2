"""The sample format of pooled input: the context before the targets, and the slot of each token."""

from dataclasses import replace

import torch
from torch import Tensor

from model.batch import Batch


def split_targets(batch: Batch, window: int) -> Batch:
    """The sample format of pooled input: context first, targets last, and the slot of each token.

    Of the result, `ids`, `types`, `positions`, `segments` and `slots` are [B, C + T], padded with segment 0;
    `slot_segments` is [B, P + T], and the flat positions of masked words and sentences count slots up to B * (P + T).
    C, T and P are the most context tokens, targets and pooled slots in a row. Windows do not cross segments.
    """
    rows, length = batch.ids.shape
    segments = torch.ones_like(batch.ids) if batch.segments is None else batch.segments
    positions = (
        torch.arange(length, device=segments.device).expand(rows, -1) if batch.positions is None else batch.positions
    )
    is_target = (
        torch.zeros_like(segments, dtype=torch.bool).view(-1).index_fill(0, batch.masked_positions, True).view(rows, -1)
    )
    is_context = (segments > 0) & ~is_target

    is_pooled = is_context & (positions > 0)  # everything but [CLS]
    starts_slot = is_context & ((positions == 0) | (_rank_in_segment(is_pooled, segments) % window == 0))
    context_size, num_targets, num_pooled = torch.stack(
        [x.sum(1).max() for x in (is_context, is_target, starts_slot)]
    ).tolist()
    target_rank = is_target.cumsum(1) - 1
    column = torch.where(is_target, context_size + target_rank, is_context.cumsum(1) - 1)
    slot = torch.where(is_target, num_pooled + target_rank, starts_slot.cumsum(1) - 1)
    num_slots = num_pooled + num_targets

    real = segments > 0
    row = torch.arange(rows, device=segments.device).unsqueeze(1).expand_as(segments)[real]

    def arranged(values: Tensor, columns: Tensor, width: int) -> Tensor:
        return values.new_zeros(rows, width).index_put((row, columns[real]), values[real])

    def tokens(values: Tensor) -> Tensor:
        return arranged(values, column, context_size + num_targets)

    flat_slot = (slot + num_slots * torch.arange(rows, device=slot.device).unsqueeze(1)).flatten()
    return replace(
        batch,
        ids=tokens(batch.ids),
        types=None if batch.types is None else tokens(batch.types),
        positions=tokens(positions),
        segments=tokens(segments),
        slots=tokens(slot),
        slot_segments=arranged(segments, slot, num_slots),
        masked_positions=flat_slot[batch.masked_positions],
        sentence_positions=None if batch.sentence_positions is None else flat_slot[batch.sentence_positions],
    )


def _rank_in_segment(counted: Tensor, segments: Tensor) -> Tensor:
    """Number of counted tokens before each token in its segment. [B, S] -> [B, S]"""
    before = counted.cumsum(1) - counted.long()
    starts = segments != segments.roll(1, dims=1)
    starts[:, 0] = True
    return before - torch.where(starts, before, 0).cummax(1).values
