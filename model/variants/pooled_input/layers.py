"""Pooling, and the layers of a pooled model: the first looks at all tokens, the others at slots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.attention import TwoStreamAttention
from model.batch import Batch
from model.block import Block, Layer
from model.parallel.tensor import TensorParallel
from model.variants.parts import Parts
from model.variants.pooled_input.slots import split_targets


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


class PoolingLayer:
    """The lowest layer: tokens [B, C + T, H] -> slots [B, P + T, H]."""

    def __init__(self, block: Block):
        self.block = block

    def __call__(self, x: Tensor, masks: PooledMasks) -> Tensor:
        block = self.block
        source = block.attention.norm(x) if block.pre_norm else x
        slots = block.residual(pool(x, masks), block.attention, masks.lowest, source)
        return block.residual(slots, block.feedforward)


class SlotLayer:
    """Every other layer: slots [B, P + T, H] -> slots."""

    def __init__(self, block: Block):
        self.block = block

    def __call__(self, x: Tensor, masks: PooledMasks) -> Tensor:
        return self.block(x, masks.above)


class PooledInputParts(Parts):
    def arrange(self, batch: Batch) -> Batch:
        return batch if batch.slots is not None else split_targets(batch, self.config.pool_window)

    def make_attention(self, block: int, tp: TensorParallel) -> TwoStreamAttention:
        return TwoStreamAttention(self.config, self.config.block_heads(block), tp)

    def make_mask(self) -> Callable[[Batch], PooledMasks]:
        return pooled_masks

    def wrap(self, layers: Sequence[Layer], blocks: Sequence[Block]) -> Sequence[Layer]:
        return [PoolingLayer(blocks[0]), *map(SlotLayer, blocks[1:])]
