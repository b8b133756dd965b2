"""The losses of a model that drops tokens: which tokens of a row they keep, and those of the step so far."""

import torch
from torch import Tensor

from model.batch import Batch
from model.variants.token_dropping.table import SPECIAL, LossTable


class TokenLosses:
    """Of one model. The run hands it the table's `importance`, and takes the `sums` of each step
    (`pretrain.training.hooks.token_losses`)."""

    def __init__(self, vocab_size: int):
        self.importance = LossTable.fresh(vocab_size).values
        """[V] fp32, the same on all ranks."""
        self.sums = torch.zeros(2, vocab_size, dtype=torch.float64, device="cpu")
        """Of the step, on this rank: the losses of each entry, and how often it was predicted."""

    def begin_step(self) -> None:
        self.sums.zero_()

    def add(self, ids: Tensor, losses: Tensor) -> None:
        """ids [M] of the true words, losses [M]."""
        self.sums = self.sums.to(ids.device)
        losses = losses.detach().double()
        self.sums.index_add_(1, ids, torch.stack([losses, torch.ones_like(losses)]))

    def kept_places(self, batch: Batch, num_kept: int) -> Tensor:
        """Where the tokens with the highest losses are in their rows, in order: [B, k] int64.

        Of equal ones, the first: so all ranks and devices keep the same. Padding comes last: it is kept only where a
        row has fewer tokens than k, and sees only itself.
        """
        self.importance = self.importance.to(batch.ids.device)
        importance = self.importance[batch.ids]
        if batch.segments is not None:
            importance = importance.masked_fill(batch.segments == 0, -SPECIAL)
        hardest = importance.argsort(dim=1, descending=True, stable=True)[:, :num_kept]
        return hardest.sort(1).values
