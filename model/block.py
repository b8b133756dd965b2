"""One block: attention and feed-forward network, each a residual branch with its norm."""

from torch import Tensor, nn

from model.attention import Attention
from model.config import BertConfig
from model.dropout import Dropout
from model.feedforward import FeedForward
from model.parallel.tensor import TensorParallel
from model.variants.choice import make_attention
from model.variants.slimming import add_coefficients


class Block(nn.Module):
    """Attention and feed-forward network, each a residual branch with its norm. x [B, S, H] -> [B, S, H]."""

    def __init__(self, config: BertConfig, block: int, tp: TensorParallel):
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention = make_attention(config, block, tp)
        self.feedforward = FeedForward(config, config.block_ffn(block), tp)
        self.dropout = Dropout(config.hidden_dropout)
        if config.slimming:
            add_coefficients(self, config.block_heads(block) // tp.size, config.block_ffn(block) // tp.size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.residual(x, self.attention, mask)
        return self.residual(x, self.feedforward)

    def residual(self, x: Tensor, branch: Attention | FeedForward, *arguments) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(branch(branch.norm(x), *arguments))
        return branch.norm(x + self.dropout(branch(x, *arguments)))
