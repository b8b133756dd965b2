"""The factors by which token dropout multiplies the words' embeddings."""

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.embeddings import Embeddings
from model.parallel.tensor import TensorParallel
from model.variants.parts import Parts


class TokenDropoutParts(Parts):
    def extend(self, model: nn.Module, tp: TensorParallel) -> None:
        embeddings = model.get_submodule("embeddings")
        assert isinstance(embeddings, Embeddings)
        embeddings.word_factors = self.word_factors

    def word_factors(self, batch: Batch) -> Tensor:
        """[B, S, 1]: 0 for [MASK], and for the other tokens of a segment what makes up for its [MASK]."""
        settings = self.config.token_dropout
        assert settings is not None
        is_mask = batch.ids == settings.mask_token
        segments = torch.zeros_like(batch.ids) if batch.segments is None else batch.segments
        is_left = 1 - share_of_segment(is_mask, segments)
        factors = (1 - settings.share) / is_left.double().clamp_min(torch.finfo(torch.float32).eps)
        return factors.masked_fill(is_mask, 0).unsqueeze(-1)


def share_of_segment(marked: Tensor, segments: Tensor) -> Tensor:
    """Of the tokens of each token's segment, the share that is marked. [B, S] -> [B, S] fp32"""
    counts = segments.new_zeros(len(segments), segments.shape[1] + 1)
    num_tokens = counts.scatter_add(1, segments, torch.ones_like(segments))
    num_marked = counts.scatter_add(1, segments, marked.long())
    return (num_marked.float() / num_tokens.clamp_min(1)).gather(1, segments)
