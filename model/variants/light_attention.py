"""Light attention: a layer that reuses the attention map of the layer below and has no query and key of its own.

Gu et al. 2021 (CompoundGrow, arXiv 2010.12562) compare it as a cheap form of a layer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from model.attention import Attention, attention_map
from model.config import BertConfig
from model.parallel.tensor import TensorParallel

if TYPE_CHECKING:
    from model.block import Block


class MappedAttention(Attention):
    """Attention over a map that is given: x [B, S, H], map [B, n, S, S] -> [B, S, H]. Dropout is each layer's own."""

    def __init__(self, config: BertConfig, num_heads: int, tp: TensorParallel, is_light: bool):
        super().__init__(config, num_heads, tp)
        if is_light:
            del self.query, self.key

    def map(self, x: Tensor, mask: Tensor | None) -> Tensor:
        query, key = map(self.heads, self.tp.enter_through(x, self.query, self.key))
        return attention_map(query, key, mask)

    def forward(self, x: Tensor, probabilities: Tensor | None) -> Tensor:
        assert probabilities is not None
        (value,) = map(self.heads, self.tp.enter_through(x, self.value))
        context = self.mix(probabilities, value)
        return self.output(context.transpose(1, 2).flatten(2))


class LayersWithOneMap:
    """A layer and the light layers above it. x [B, S, H] -> [B, S, H]."""

    def __init__(self, blocks: "list[Block]"):
        self.blocks = blocks

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        lowest = self.blocks[0]
        attention = lowest.attention
        assert isinstance(attention, MappedAttention)
        probabilities = attention.map(attention.norm(x) if lowest.pre_norm else x, mask)
        for block in self.blocks:
            x = block(x, probabilities)
        return x


def grouped_by_map(config: BertConfig, layers: "Sequence[Block]") -> list[LayersWithOneMap]:
    """All layers from the bottom up, each light one in the group of the layer whose map it uses."""
    groups: list[list[Block]] = []
    for number, block in enumerate(layers):
        if number in config.light_layers:
            groups[-1].append(block)
        else:
            groups.append([block])
    return [LayersWithOneMap(group) for group in groups]
