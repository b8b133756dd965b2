"""One micro-batch of one data-parallel rank."""

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.flat import Flat


@dataclass(frozen=True)
class Runs:
    """The B * S places of a micro-batch, row after row, as runs that see only themselves: each segment, and the padding
    at the end of each row."""

    starts: Tensor  # [N + 1] int32, the first place of each, and B * S
    longest: int

    @classmethod
    def of(cls, segments: Tensor) -> "Runs":
        """segments [B, S], see `Batch`. Waits for their device."""
        begins = torch.ones_like(segments, dtype=torch.bool)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        starts = begins.flatten().nonzero().squeeze(1)
        starts = torch.cat([starts, starts.new_tensor([segments.numel()])])
        return cls(starts.int(), int(starts.diff().max()))

    def among(self, places: Tensor, length: int) -> "Runs":
        """The same runs of only some places of each row of `length`: [B, k], ascending. Some may be left with none, and
        `longest` is a bound, so that no device has to be waited for."""
        rows, num_kept = places.shape
        is_kept = self.starts.new_zeros(rows, length).scatter(1, places, 1)
        before = F.pad(is_kept.flatten().cumsum(0), (1, 0))  # [B * S + 1], kept places before each
        return Runs(before[self.starts.long()].int(), min(self.longest, num_kept))


@dataclass(frozen=True)
class Batch:
    """B rows of S tokens, M of them masked. A row holds one sequence, or several *segments* blind to each other.

    In *causal* rows nothing is masked: the M positions are those that another token of their segment follows, and their
    true ids are those of the following tokens.
    """

    ids: Tensor  # [B, S] int64, with masks applied
    masked_positions: Tensor  # [M] int64, flat indices into B * S
    masked_ids: Tensor  # [M] int64, the true ids at those positions
    types: Tensor | None = None  # [B, S] int64; None: all 0
    positions: Tensor | None = None  # [B, S] int64; None: 0 .. S-1
    segments: Tensor | None = None  # [B, S] int64, 1, 2, ... within a row, 0 for padding; None: no padding, one segment
    runs: Runs | None = None  # of the segments, on a GPU, for `model.attention_kernels`
    sentence_positions: Tensor | None = None  # [N] int64, flat index of each segment's [CLS]
    sentence_labels: Tensor | None = None  # [N] int64, 0: the second sentence really follows the first
    causal: bool = False  # each token sees itself and those before it

    # Of pooled input only, see `model.variants.pooled_input.slots`:
    slots: Tensor | None = None  # [B, S] int64, the slot of its row that each token is pooled into
    slot_segments: Tensor | None = None  # [B, slots] int64, like segments

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return self.ids.numel() if self.segments is None else int(torch.count_nonzero(self.segments))

    def tensors(self) -> dict[str, Any]:
        """Those that there are, by field; not the runs."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str) -> "Batch":
        """On the way to a GPU, in one copy, the runs of packed rows are found, while no device has to be waited for. So
        are those of causal rows: kernels for runs compute half the map."""
        device = torch.device(device)
        if device.type == self.ids.device.type:
            return self
        if device.type != "cuda":
            return Batch(**{name: tensor.to(device) for name, tensor in self.tensors().items()}, causal=self.causal)
        runs = None
        if self.segments is not None or self.causal:
            runs = Runs.of(torch.ones_like(self.ids) if self.segments is None else self.segments)
        starts = {} if runs is None else {"runs": runs.starts}
        moved: dict[str, Any] = {**Flat.of(self.tensors() | starts).to_gpu(device).tensors()}
        if runs is not None:
            moved["runs"] = Runs(moved["runs"], runs.longest)
        return Batch(**moved, causal=self.causal)
