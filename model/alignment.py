"""Late-to-early training (LET, arXiv 2602.05393): an early layer learns what a frozen teacher's last layer says.

    L = L_LM - weight * mean over tokens of cos(h_k, h_T)

h_k: what layer k of the model in training puts out, h_T: what the teacher's last layer does, on the same rows; padding
does not count. With pre-LN both are taken through the final norm, as the heads take them.

Where one is wider it is folded: unit i of the narrower faces the mean of units i, i + width, i + 2 width, ... of the
wider. (Our choice; the paper says that dimensions are projected.) This is a projection with orthogonal rows, without
parameters or chance, and it is exact where it matters here: `widen` with `how: copy` puts the copies of hidden
unit i there, so a model that has just been widened from its teacher folds back into it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch


@dataclass(frozen=True)
class Alignment:
    """What a model in training is aligned with. None of it is a part of the model: it is neither trained nor saved."""

    name: str
    """Of the teacher, as the recipe gives it."""
    encode: Callable[[Batch], Tensor]
    """The teacher's hidden states of the last layer, [B, S, H_T]."""
    layer: int
    """Of the model in training, counted from 1."""

    def target(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self.encode(batch)


def sum_of_cosines(states: Tensor, target: Tensor, segments: Tensor | None) -> Tensor:
    """states [B, S, H], target [B, S, H_T], segments [B, S] as in `Batch` -> the sum over all tokens that are not
    padding, at least fp32."""
    width, precision = min(states.shape[-1], target.shape[-1]), torch.promote_types(states.dtype, torch.float32)
    cosines = F.cosine_similarity(folded(states.to(precision), width), folded(target.to(precision), width), dim=-1)
    return cosines.sum() if segments is None else torch.where(segments > 0, cosines, 0.0).sum()


def folded(x: Tensor, width: int) -> Tensor:
    """[..., H] -> [..., width]: the mean of every `width`-th unit."""
    times, rest = divmod(x.shape[-1], width)
    if (times, rest) == (1, 0):
        return x
    folds = F.pad(x, (0, -x.shape[-1] % width)).unflatten(-1, (-1, width))  # [..., folds, width]
    return folds.sum(-2) / (times + (torch.arange(width, device=x.device) < rest).to(x))
