"""Rotary positions: queries and keys are turned by angles that grow with the position; products know the distance.

Su et al. 2021 (RoFormer, arXiv 2104.09864), equation 34, with unit i paired with unit i + d/2 as in GPT-NeoX, Llama and
ModernBERT: at position p, pair i turns by p / theta^(2i / d). Angles are fp32 in every precision, as everywhere, so
that models of others compute the same here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention_kernels import PackedRows
from model.batch import Batch


@dataclass(frozen=True)
class Rotation:
    """The angles of the tokens of a micro-batch, each twice: once for each half of the units."""

    cos: Tensor  # [B, 1, S, d] fp32, or [1, 1, S, d] where rows have equal positions
    sin: Tensor

    @classmethod
    def of(cls, batch: Batch, head_dim: int, theta: float) -> "Rotation":
        """Positions begin again in each segment of a packed row (`Batch.positions`)."""
        positions = batch.positions
        if positions is None:
            positions = torch.arange(batch.ids.shape[1], device=batch.ids.device).unsqueeze(0)
        pair = torch.arange(0, head_dim, 2, device=positions.device).float()
        angles = positions.unsqueeze(-1).float() * (1.0 / theta ** (pair / head_dim))  # [B, S, d/2]
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
        return cls(angles.cos(), angles.sin())

    def turn(self, x: Tensor) -> Tensor:
        """x [B, n, S, d] -> the same, turned. 16-bit numbers are turned in fp32."""
        first, second = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat([-second, first], dim=-1) * self.sin).to(x.dtype)

    def at(self, places: Tensor) -> "Rotation":
        """Of some tokens of each row, places [B, k]."""
        index = places[:, None, :, None].expand(-1, -1, -1, self.cos.shape[-1])
        cos, sin = (x.expand(len(places), -1, -1, -1).gather(2, index) for x in (self.cos, self.sin))
        return Rotation(cos, sin)

    def __getitem__(self, rows: slice) -> "Rotation":
        return Rotation(self.cos[rows], self.sin[rows])


@dataclass(frozen=True)
class RotaryMask:
    """What layers take instead of a mask where positions are rotary."""

    mask: Tensor | PackedRows | None
    rotation: Rotation
    of_queries: Rotation | None = None
    """Where the queries are other tokens than the keys."""

    def __getitem__(self, rows: slice) -> "RotaryMask":
        """Of some rows: a layer that is not run sees none."""
        assert not isinstance(self.mask, PackedRows), "a kernel for runs takes all rows"
        return RotaryMask(None if self.mask is None else self.mask[rows], self.rotation[rows])
