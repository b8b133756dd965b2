"""Attention over a map that is given, and the layers that share one."""

from collections.abc import Sequence

from torch import Tensor

from model.attention import Mask, SoftmaxAttention, attention_map, turned
from model.block import Block, Layer
from model.config import BertConfig
from model.parallel.tensor import TensorParallel
from model.variants.parts import Parts


class MappedAttention(SoftmaxAttention):
    """Attention over a given map: x [B, S, H], map [B, n, S, S] -> [B, S, H]. Each layer has its own dropout."""

    def __init__(self, config: BertConfig, num_heads: int, tp: TensorParallel, is_light: bool):
        super().__init__(config, num_heads, tp)
        if is_light:
            del self.query, self.key

    def map(self, x: Tensor, mask: Mask) -> Tensor:
        query, key = map(self.heads, self.tp.enter_through(x, self.query, self.key))
        query, key, mask = turned(query, key, mask)
        return attention_map(query, key, mask)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """mask: the map, as a block passes it on."""
        (value,) = map(self.heads, self.tp.enter_through(x, self.value))
        context = self.mix(mask, value)
        return self.output(context.transpose(1, 2).flatten(2))


class LayersWithOneMap:
    """A layer and the light layers above it. x [B, S, H] -> [B, S, H]."""

    def __init__(self, blocks: list[Block]):
        self.blocks = blocks

    def __call__(self, x: Tensor, mask: Mask) -> Tensor:
        lowest = self.blocks[0]
        attention = lowest.attention
        assert isinstance(attention, MappedAttention)
        probabilities = attention.map(attention.norm(x) if lowest.pre_norm else x, mask)
        for block in self.blocks:
            x = block(x, probabilities)
        return x


class LightAttentionParts(Parts):
    def make_attention(self, block: int, tp: TensorParallel) -> MappedAttention:
        config = self.config
        return MappedAttention(config, config.block_heads(block), tp, is_light=config.is_light(block))

    def wrap(self, layers: Sequence[Layer], blocks: Sequence[Block]) -> Sequence[Layer]:
        """Each light layer in the group of the layer whose map it uses."""
        groups: list[list[Block]] = []
        for number, block in enumerate(blocks):
            if number in self.config.light_layers:
                groups[-1].append(block)
            else:
                groups.append([block])
        return [LayersWithOneMap(group) for group in groups]
