"""Word, position and token-type embeddings."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.batch import Batch
from model.config import BertConfig
from model.dropout import Dropout
from model.linear import Linear
from model.norm import make_norm
from model.parallel.tensor import TensorParallel


class Embeddings(nn.Module):
    """Batch -> [B, S, H], or this rank's part of the tokens. Pre-LN models have no norm here unless asked for."""

    def __init__(self, config: BertConfig, tp: TensorParallel):
        super().__init__()
        self.tp = tp
        width = config.embedding_width
        self.word = VocabParallelTable(config.padded_vocab_size, width, tp)
        self.position = Table(config.max_positions, width) if config.positions == "learned" else None
        self.token_type = Table(config.type_vocab, width) if config.type_vocab else None
        self.norm = make_norm(config, width) if config.normalises_embeddings else nn.Identity()
        self.dropout = Dropout(config.hidden_dropout)
        self.word_factors: Callable[[Batch], Tensor] | None = None
        """What a variant multiplies the words' embeddings by: [B, S, 1], at least fp32."""
        self.projection = Linear(width, config.hidden) if config.embedding_size else nn.Identity()

    def forward(self, batch: Batch) -> Tensor:
        x = self.word(batch.ids)
        if self.word_factors is not None:
            factors = self.tp.own_tokens(self.word_factors(batch))
            x = (x * factors.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)
        if self.position is not None:
            x = x + self.position(self.positions(batch))
        if self.token_type is not None:
            x = x + self.token_type(0 if batch.types is None else self.tp.own_tokens(batch.types))
        return self.projection(self.dropout(self.norm(x)))

    def positions(self, batch: Batch) -> Tensor | slice:
        length = batch.ids.shape[1]
        if batch.positions is not None:
            return self.tp.own_tokens(batch.positions)
        if not self.tp.sequence_parallel:
            return slice(length)
        return self.tp.own_tokens(torch.arange(length, device=batch.ids.device).expand_as(batch.ids))


class Table(nn.Module):
    """Rows of a weight [rows, H], by index tensor [...] -> [..., H], by slice or by number."""

    def __init__(self, rows: int, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden))

    def forward(self, index: Tensor | slice | int) -> Tensor:
        return F.embedding(index, self.weight) if isinstance(index, Tensor) else self.weight[index]


class VocabParallelTable(Table):
    """The word table, cut along the vocabulary: each rank looks up its own rows and the sum over ranks is complete."""

    def __init__(self, rows: int, hidden: int, tp: TensorParallel):
        super().__init__(rows // tp.size, hidden)
        self.tp = tp

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]  # [B, S] -> [B, S, H]
        if self.tp.size == 1:
            return super().forward(ids)
        num_rows = self.weight.shape[0]
        local = ids - self.tp.rank * num_rows
        elsewhere = (local < 0) | (local >= num_rows)
        rows = super().forward(local.masked_fill(elsewhere, 0))
        return self.tp.leave(rows.masked_fill(elsewhere.unsqueeze(-1), 0))
