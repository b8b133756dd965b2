"""The two pretraining heads: masked words over the tied word table, and the sentence pair."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import BertConfig
from model.feedforward import ACTIVATIONS
from model.linear import Linear, make_linear
from model.norm import make_norm
from model.parallel.tensor import TensorParallel


class MaskedWordHead(nn.Module):
    """Hidden states at the masked positions [M, H] -> logits [M, this rank's columns of the padded vocabulary]."""

    def __init__(self, config: BertConfig, tp: TensorParallel):
        super().__init__()
        self.tp = tp
        self.activation = ACTIVATIONS[config.activation]
        rank = config.rank("mlm.transform")
        self.transform = make_linear(config.hidden, config.embedding_width, rank, bias=config.head_bias)
        self.norm = make_norm(config, config.embedding_width)
        self.bias = nn.Parameter(torch.empty(config.padded_vocab_size // tp.size))

    def forward(self, hidden: Tensor, word_table: Tensor) -> Tensor:
        x = self.norm(self.activation(self.transform(hidden)))
        return F.linear(self.tp.enter(x), word_table, self.bias)


class Pooler(Linear):
    """Hidden states of the [CLS] tokens [N, H] -> [N, H]."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden).tanh()
