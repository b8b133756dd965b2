"""Self-attention, cut by heads under tensor parallelism."""

from typing import Any

import torch
from torch import Tensor, nn

from model.attention_kernels import PackedRows, drawing_attention, fused_attention, takes_products
from model.batch import Batch
from model.config import BertConfig
from model.dropout import dropout
from model.linear import make_linear, make_row_parallel_linear
from model.norm import make_norm
from model.parallel.tensor import TensorParallel
from model.rotary import RotaryMask

Mask = Any
"""Which tokens each token sees. Softmax attention takes bool [B, 1, S, S], `PackedRows` or None (all). With rotary
positions it comes in a `RotaryMask`."""


class Attention(nn.Module):
    """The projections of attention, whatever it does between them. x [B, S, H] -> [B, S, H].

    Letters: n heads of this rank, d head_dim.
    """

    def __init__(self, config: BertConfig, num_heads: int, tp: TensorParallel):
        super().__init__()
        self.tp = tp
        self.num_heads = num_heads // tp.size
        self.dropout = config.attention_dropout
        width = self.num_heads * config.head_dim
        bias, rank = config.attention_bias, config.rank
        self.query = make_linear(config.hidden, width, rank("attention.query"), tp, bias)
        self.key = make_linear(config.hidden, width, rank("attention.key"), tp, bias)
        self.value = make_linear(config.hidden, width, rank("attention.value"), tp, bias)
        self.output = make_row_parallel_linear(width, config.hidden, rank("attention.output"), tp, bias)
        self.norm: nn.Module = make_norm(config, config.hidden)  # applied by the block, before or after this branch

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        query, key, value = map(self.heads, self.tp.enter_through(x, self.query, self.key, self.value))
        query, key, mask = turned(query, key, mask)
        context = self.attend(query, key, value, mask)  # [B, n, S, d]
        return self.output(context.transpose(1, 2).flatten(2))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, S, n*d] -> [B, n, S, d]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
        """The weighted sums of the values. All [B, n, S, d]."""
        raise NotImplementedError


class SoftmaxAttention(Attention):
    """softmax(q k^T / sqrt(d)) v: that of BERT."""

    kernel: str | None = None
    """The one of `model.attention_kernels` that the run prefers."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | PackedRows | None) -> Tensor:
        """softmax(q k^T / sqrt(d)) v, with dropout on the probabilities. All [B, n, S, d], a mask bool [B, 1, S, S]."""
        if not isinstance(mask, PackedRows) and takes_products(self.kernel, query.device):
            return self.mix(attention_map(query, key, mask), value)
        probability = self.dropout if self.training else 0.0
        if not (probability and self.tp.draws_own):
            return fused_attention(query, key, value, mask, probability, self.kernel)
        return self.tp.draw_own(*drawing_attention(query, key, value, mask, probability, self.kernel))

    def mix(self, probabilities: Tensor, value: Tensor) -> Tensor:
        """Dropout on the map [B, n, S, S], then the weighted sum of the values [B, n, S, d]."""
        if self.training and self.dropout:
            probabilities = self.tp.draw_own(dropout, probabilities, self.dropout)
        return probabilities @ value


class TwoStreamAttention(SoftmaxAttention):
    """Attention whose keys and values may come from another stream than its queries."""

    def forward(self, x: Tensor, mask: Mask, source: Tensor | None = None) -> Tensor:
        if source is None:
            return super().forward(x, mask)
        (query,) = map(self.heads, self.tp.enter_through(x, self.query))
        key, value = map(self.heads, self.tp.enter_through(source, self.key, self.value))
        query, key, mask = turned(query, key, mask)
        return self.output(self.attend(query, key, value, mask).transpose(1, 2).flatten(2))


def turned(query: Tensor, key: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Mask]:
    """Queries and keys turned by their positions where these are rotary, and the mask itself."""
    if not isinstance(mask, RotaryMask):
        return query, key, mask
    of_queries = mask.rotation if mask.of_queries is None else mask.of_queries
    return of_queries.turn(query), mask.rotation.turn(key), mask.mask


def attention_map(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)): q, k [B, n, S, d] -> [B, n, S, S]."""
    # A contiguous key is a view when transposed; from [B, S, n, d] torch would gather it element by element.
    scores = (query * query.shape[-1] ** -0.5) @ key.contiguous().transpose(-2, -1)
    if mask is not None:
        scores = scores + additive(mask, scores.dtype)
    return scores.softmax(-1)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to be added to scores: 0 where it is True, elsewhere the lowest number. Faster than filling them."""
    return torch.logical_not(mask, out=mask.new_empty(mask.shape, dtype=dtype)).mul_(torch.finfo(dtype).min)


def attention_mask(batch: Batch) -> Tensor | None:
    """Which keys each query may see: those of its own segment, in causal rows up to itself. bool [B, 1, S, S], or
    [1, 1, S, S] where all rows have the same; None: all.

    Padding (segment 0) sees only padding: no row of the softmax is empty, and no real token sees padding.
    """
    mask, segments = None, batch.segments
    if segments is not None:
        mask = segments[:, None, :, None] == segments[:, None, None, :]
    if batch.causal:
        length = batch.ids.shape[1]
        before = torch.ones(1, 1, length, length, dtype=torch.bool, device=batch.ids.device).tril()
        mask = before if mask is None else mask & before
    return mask
