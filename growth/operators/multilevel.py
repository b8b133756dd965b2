"""Levels of a V-cycle: the maps between the large model and the small one (Zou et al. 2024, arXiv 2404.07999).

Between two levels, unit i of the small model stands for units i, i + n, i + 2n, ... of the large one, and small layer i
for k neighbouring layers. Going up copies units (consumers divide their weights) and layers. Going down is the exact
inverse: it averages the units' weights and the layers, and sums the consumers' weights.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

from growth.expansion import AxisMap
from growth.operators.base import Operator
from growth.operators.width import axis_maps, changed_widths, wanted_widths
from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.errors import UserError
from model.lazy import torch


class LevelOperator(Operator):
    """Width and depth by whole factors, all up or all down."""

    changes: ClassVar[tuple[str, ...]] = ("layers", "hidden", "heads", "ffn")
    verb: ClassVar[str]
    """What the operator cannot do, for its message."""
    opposite: ClassVar[str]

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if source.sharing is not None or isinstance(source.heads, tuple) or isinstance(source.ffn, tuple):
            raise UserError(f"grow {self.name}: needs layers of equal widths with a block each; unshare first")
        if not any(field in wanted for field in self.changes):
            raise UserError(f"grow {self.name}: the shape sets none of layers, hidden, heads and ffn; set one of them")
        layers = wanted.get("layers", source.layers)
        as_deep = at_depth(source, layers)
        target = as_deep.replace(**wanted_widths(wanted))
        changes = {"layers": (source.layers, layers)}
        changes |= {axis: (old, new) for axis, _, old, new in changed_widths(as_deep, target)}
        for axis, (old, new) in changes.items():
            small, large = self.small_and_large(old, new)
            if small > large:
                raise UserError(f"grow {self.name}: {axis} {old} -> {new} {self.verb}; use {self.opposite}")
            if not small or large % small:
                raise UserError(
                    f"grow {self.name}: {axis} {old} -> {new} is not a whole factor; choose a divisor of {large}"
                )
        return target

    @staticmethod
    def small_and_large(old: int, new: int) -> tuple[int, int]:
        raise NotImplementedError


def level_maps(small: BertConfig, large: BertConfig) -> Callable[[int | None], Mapping[str, AxisMap]]:
    """The maps upward for the units of every axis. All layers are equal, so block 0 represents them all."""
    return axis_maps(
        at_depth(small, 1),
        at_depth(large, 1),
        lambda axis, block, old, new: AxisMap.copies(torch.arange(new) % old, old),
    )


def at_depth(shape: BertConfig, layers: int) -> BertConfig:
    """The shape with another number of layers. Heads on inner ones stay with the layer that stands for theirs."""
    return shape.replace(layers=layers, **shape.moved_heads(lambda layer: -(-layer * layers // shape.layers)))
