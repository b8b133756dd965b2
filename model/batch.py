"""One micro-batch of one data-parallel rank."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B rows of S tokens, M of them masked. A row holds one sequence, or several *segments* blind to each other."""

    ids: Tensor  # [B, S] int64, with masks applied
    masked_positions: Tensor  # [M] int64, flat indices into B * S
    masked_ids: Tensor  # [M] int64, the true ids at those positions
    types: Tensor | None = None  # [B, S] int64; None: all 0
    positions: Tensor | None = None  # [B, S] int64; None: 0 .. S-1
    segments: Tensor | None = None  # [B, S] int64, 1, 2, ... within a row, 0 for padding; None: no padding, one segment
    sentence_positions: Tensor | None = None  # [N] int64, flat index of each segment's [CLS]
    sentence_labels: Tensor | None = None  # [N] int64, 0: the second sentence really follows the first

    # Of pooled input only, see `model.pooled_input.split_targets`:
    slots: Tensor | None = None  # [B, S] int64, the slot of its row that each token is pooled into
    slot_segments: Tensor | None = None  # [B, slots] int64, like segments

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return self.ids.numel() if self.segments is None else int(torch.count_nonzero(self.segments))

    def to(self, device: torch.device | str) -> "Batch":
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in tensors.items() if t is not None})
