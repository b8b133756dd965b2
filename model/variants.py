"""Which parts the variants of BERT swap in. A plain BERT takes the last line of each choice."""

from collections.abc import Callable, Sequence

from torch import Tensor

from model.attention import Attention, attention_mask
from model.config import BertConfig
from model.kernel_attention import KernelAttention, segment_membership
from model.light_attention import MappedAttention, grouped_by_map
from model.parallel import TensorParallel

Layer = Callable[[Tensor, Tensor | None], Tensor]
"""Hidden states [B, S, H] and a mask -> [B, S, H]."""


def make_attention(config: BertConfig, block: int, tp: TensorParallel) -> Attention:
    num_heads = config.block_heads(block)
    if config.attention != "softmax":
        return KernelAttention(config, num_heads, tp)
    if config.light_layers:
        return MappedAttention(config, num_heads, tp, is_light=config.is_light(block))
    return Attention(config, num_heads, tp)


def make_mask(config: BertConfig) -> Callable[[Tensor | None], Tensor | None]:
    """The function from segments [B, S] to the mask that this kind of attention takes."""
    if config.attention != "softmax":
        return segment_membership
    return attention_mask


def make_layers(config: BertConfig, blocks: Sequence) -> Sequence[Layer]:
    """What the encoder runs, from the bottom up, given the block of each layer."""
    if config.light_layers:
        return grouped_by_map(config, blocks)
    return blocks
