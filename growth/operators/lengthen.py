"""Lengthening: more rows in the position table, for longer sequences.

    copy         row p is old row p mod n (Beltagy et al. 2020, Longformer, arXiv 2004.05150): unchanged up to length n
    interpolate  the old rows are spread evenly over the new length: every position moves

`copy` preserves the function of sequences up to the old length (tier 1), which do not use the new rows. New rows take
the moments of the rows they come from, an estimate. A model without a position table (`positions: rotary`) reads longer
sequences with the parameters that it has; raise `rotary_theta` with its length.
"""

from typing import ClassVar, Literal

from growth.change import ShapeChange
from growth.expansion import AxisMap, Dense, map_axes
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.errors import UserError
from model.lazy import Tensor, torch


class Lengthen(Operator):
    name: ClassVar[str] = "lengthen"
    changes: ClassVar[tuple[str, ...]] = ("max_positions",)

    how: Literal["copy", "interpolate"] = "copy"
    """How the new rows of the position table start (above). `copy` keeps the function of short sequences."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        old, new = source.max_positions, wanted.get("max_positions", source.max_positions)
        if new <= old:
            raise UserError(f"grow lengthen: max_positions {old} -> {new} adds no rows; ask for more in the shape")
        if self.how != "copy" and source.positions != "learned":
            raise UserError(f"grow lengthen: positions {source.positions} have no table to {self.how}; leave out how")
        return source.replace(max_positions=new)

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        old, new = source.max_positions, target.max_positions
        if self.how == "copy":
            rows = AxisMap.kept(torch.arange(new) % old, old)
        else:
            matrix = Dense(spread(old, new))
            rows = AxisMap(matrix, matrix)
        return map_axes(source, target, lambda block: {"positions": rows}, self.moments)


def spread(old: int, new: int) -> Tensor:  # [new, old]
    """Linear interpolation: new row p reads old position p (old - 1) / (new - 1)."""
    place = torch.arange(new, dtype=torch.float64) * (old - 1) / (new - 1)
    distance = (place.unsqueeze(1) - torch.arange(old)).abs()
    return (1 - distance).clamp_min(0)
