"""The feed-forward network, cut by its inner width under tensor parallelism."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from model.config import BertConfig
from model.linear import make_linear, make_row_parallel_linear
from model.norm import make_norm
from model.parallel.tensor import TensorParallel

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """x [B, S, H] -> [B, S, H] through `width` inner units.

    Gated: activation(x W) * (x V), then the output layer (Shazeer 2020, arXiv 2002.05202; W is `input`, V is `gate`).
    Tensor parallelism cuts both alike, so that an inner unit has its input and its gate on one rank.
    """

    def __init__(self, config: BertConfig, width: int, tp: TensorParallel):
        super().__init__()
        self.tp = tp
        self.activation = ACTIVATIONS[config.activation]
        bias, rank = config.ffn_bias, config.rank
        self.input = make_linear(config.hidden, width // tp.size, rank("feedforward.input"), tp, bias)
        gate_rank = rank("feedforward.gate")
        self.gate = make_linear(config.hidden, width // tp.size, gate_rank, tp, bias) if config.gated else None
        self.output = make_row_parallel_linear(width // tp.size, config.hidden, rank("feedforward.output"), tp, bias)
        self.norm = make_norm(config, config.hidden)  # applied by the block, before or after this branch

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            (inner,) = self.tp.enter_through(x, self.input)  # [B, S, this rank's part of the inner units]
            return self.output(self.activation(inner))
        inner, gate = self.tp.enter_through(x, self.input, self.gate)
        return self.output(self.activation(inner) * gate)
