"""One block: attention and feed-forward network, each a residual branch with its norm."""

from collections.abc import Callable

from torch import Tensor, nn

from model.attention import Attention, Mask
from model.config import BertConfig
from model.dropout import Dropout
from model.feedforward import FeedForward
from model.parallel.tensor import TensorParallel

Layer = Callable[[Tensor, Mask], Tensor]
"""A step of the encoder (in a plain BERT, the block itself): hidden states [B, S, H] and a mask -> [B, S, H]."""


class Block(nn.Module):
    """Attention and feed-forward network, each a residual branch with its norm. x [B, S, H] -> [B, S, H]."""

    def __init__(self, config: BertConfig, block: int, attention: Attention, tp: TensorParallel):
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention = attention
        if not config.normalises_attention(block):
            attention.norm = nn.Identity()
        self.feedforward = FeedForward(config, config.block_ffn(block), tp)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        x = self.residual(x, self.attention, mask)
        return self.residual(x, self.feedforward)

    def residual(self, x: Tensor, branch: Attention | FeedForward, *arguments) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(branch(branch.norm(x), *arguments))
        return branch.norm(x + self.dropout(branch(x, *arguments)))


def whole_block(layer: Layer) -> Block | None:
    """The block that a layer runs exactly once, and as a whole: the layer itself, or the one that it names as
    `whole_block`. None where a variant calls parts of a block, or leaves it out at times."""
    return layer if isinstance(layer, Block) else getattr(layer, "whole_block", None)
