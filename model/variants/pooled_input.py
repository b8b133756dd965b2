"""Pooled input (CompoundGrow): the context is pooled before the first layer, the masked tokens are not.

Gu et al. 2021 (arXiv 2010.12562). A row is split into its *context*, the tokens that are not masked, and its *targets*,
the masked ones. Each run of `window` context tokens becomes one slot, the mean of its embeddings; [CLS] and every
target have a slot of their own. The first layer is asymmetric, its queries are the slots and its keys and values all
tokens; from the second layer on the sequence has 1 + ceil((context - 1) / window) + targets slots.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.attention import Attention
from model.batch import Batch

if TYPE_CHECKING:
    from model.block import Block


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
    """How many counted tokens of its own segment come before each token. [B, S] -> [B, S]"""
    before = counted.cumsum(1) - counted.long()
    starts = segments != segments.roll(1, dims=1)
    starts[:, 0] = True
    return before - torch.where(starts, before, 0).cummax(1).values


@dataclass(frozen=True)
class PooledMasks:
    """What the layers of a pooled model see."""

    slots: Tensor  # [B, C + T] int64
    is_token: Tensor  # [B, C + T] bool
    lowest: Tensor  # [B, 1, P + T, C + T] bool: slots look at tokens of their segment
    above: Tensor  # [B, 1, P + T, P + T] bool: slots look at slots of their segment


def pooled_masks(batch: Batch) -> PooledMasks:
    assert batch.slots is not None and batch.segments is not None and batch.slot_segments is not None
    queries = batch.slot_segments[:, None, :, None]
    return PooledMasks(
        batch.slots,
        batch.segments > 0,
        (queries == batch.segments[:, None, None, :]) | (queries == 0),  # an empty slot must see something
        queries == batch.slot_segments[:, None, None, :],
    )


def pool(x: Tensor, masks: PooledMasks) -> Tensor:
    """The mean of the tokens of each slot: [B, C + T, H] -> [B, P + T, H]; empty slots are 0."""
    num_slots = masks.above.shape[-1]
    share = masks.is_token.to(x.dtype)
    counts = share.new_zeros(len(share), num_slots).scatter_add(1, masks.slots, share)
    share = share / counts.gather(1, masks.slots).clamp_min(1)
    index = masks.slots.unsqueeze(-1).expand_as(x)
    return x.new_zeros(len(x), num_slots, x.shape[-1]).scatter_add(1, index, x * share.unsqueeze(-1))


class TwoStreamAttention(Attention):
    """Attention whose keys and values may come from another stream than its queries."""

    def forward(self, x: Tensor, mask: Tensor | None, source: Tensor | None = None) -> Tensor:
        if source is None:
            return super().forward(x, mask)
        (query,) = map(self.heads, self.tp.enter_through(x, self.query))
        key, value = map(self.heads, self.tp.enter_through(source, self.key, self.value))
        return self.output(self.attend(query, key, value, mask).transpose(1, 2).flatten(2))


class PoolingLayer:
    """The lowest layer: tokens [B, C + T, H] -> slots [B, P + T, H]."""

    def __init__(self, block: "Block"):
        self.block = block

    def __call__(self, x: Tensor, masks: PooledMasks) -> Tensor:
        block = self.block
        source = block.attention.norm(x) if block.pre_norm else x
        slots = block.residual(pool(x, masks), block.attention, masks.lowest, source)
        return block.residual(slots, block.feedforward)


class SlotLayer:
    """Every other layer: slots [B, P + T, H] -> slots."""

    def __init__(self, block: "Block"):
        self.block = block

    def __call__(self, x: Tensor, masks: PooledMasks) -> Tensor:
        return self.block(x, masks.above)
