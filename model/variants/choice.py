"""Which parts the variants of BERT swap in. A plain BERT takes the last line of each choice."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from model.attention import Attention, attention_mask
from model.batch import Batch
from model.config import BertConfig
from model.parallel.tensor import TensorParallel
from model.variants.kernel_attention import KernelAttention, segment_membership
from model.variants.layer_drop import DroppableLayer
from model.variants.light_attention import MappedAttention, grouped_by_map
from model.variants.masked_units import FadingLayer, NewUnits
from model.variants.pooled_input import PoolingLayer, SlotLayer, TwoStreamAttention, pooled_masks
from model.variants.sub_models import SubModelLayer

if TYPE_CHECKING:
    from model.bert import BertForPreTraining
    from model.block import Block

Mask = Any
"""What the layers of a variant are told about who sees whom; of a plain BERT: bool [B, 1, S, S] or None."""
Layer = Callable[[Tensor, Mask], Tensor]
"""Hidden states [B, S, H] and a mask -> [B, S, H]."""


def make_attention(config: BertConfig, block: int, tp: TensorParallel) -> Attention:
    num_heads = config.block_heads(block)
    if config.attention != "softmax":
        return KernelAttention(config, num_heads, tp)
    if config.pool_window > 1:
        return TwoStreamAttention(config, num_heads, tp)
    if config.light_layers:
        return MappedAttention(config, num_heads, tp, is_light=config.is_light(block))
    return Attention(config, num_heads, tp)


def make_mask(config: BertConfig) -> Callable[[Batch], Mask]:
    """The function from a batch to the mask that its layers take."""
    if config.pool_window > 1:
        return pooled_masks
    if config.attention != "softmax":
        return lambda batch: segment_membership(batch.segments)
    return lambda batch: attention_mask(batch.segments)


def attends_over_runs(config: BertConfig) -> bool:
    """Whether attention is one function of query, key and value whose rows are never divided: it needs no mask then,
    given a kernel that knows where segments begin."""
    variants = ("light_layers", "layer_drop", "sub_models")
    return config.attention == "softmax" and config.pool_window == 1 and not config.variants.keys() & set(variants)


def make_layers(config: BertConfig, blocks: "Sequence[Block]") -> Sequence[Layer]:
    """What the encoder runs, from the bottom up, given the block of each layer."""
    if config.pool_window > 1:
        return [PoolingLayer(blocks[0]), *map(SlotLayer, blocks[1:])]
    if config.light_layers:
        return grouped_by_map(config, blocks)
    if config.layer_drop:
        return [DroppableLayer(config, layer, block) for layer, block in enumerate(blocks)]
    if config.sub_models:
        return [SubModelLayer(config, layer, block) for layer, block in enumerate(blocks)]
    if config.masked and config.masked.layers:
        new_layers = config.masked.layers
        return [FadingLayer(block) if layer in new_layers else block for layer, block in enumerate(blocks)]
    return blocks


class Timed(Protocol):
    """A part that changes with training's progress."""

    def begin_step(self, step: int, steps_masked: int, seed: int) -> None: ...


def timed_parts(model: "BertForPreTraining") -> list[Timed]:
    parts: list[Timed] = [layer for layer in model.layers if isinstance(layer, DroppableLayer | SubModelLayer)]
    return [*parts, NewUnits(model)] if model.config.masked else parts
