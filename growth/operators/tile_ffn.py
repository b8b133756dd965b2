"""Tiling the FFN: k copies of the narrow network side by side, each with 1/k of the output weights.

Gu et al. 2021 (CompoundGrow, arXiv 2010.12562), its width operator: W1 = tile(W1', k), b1 = tile(b1', k),
W2 = tile(W2', k) / k. The function and the training state are preserved (tier 2). BERT applies dropout to the output
of the feed-forward network, not to its inner units, so copies see the same inputs and gradients: they stay equal
forever, and the network is no better than the narrow one, unless `noise` breaks the symmetry (then tier 1).
"""

from typing import Annotated, ClassVar

from pydantic import Field

from growth.change import ShapeChange
from growth.expansion import AxisMap, expand
from growth.operators.base import Inputs, Operator
from growth.operators.widen import check_width
from growth.operators.width import axis_maps, changed_widths, copied_units, with_noise
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.lazy import torch
from model.parameters import ParameterSpec


class TileFfn(Operator):
    name: ClassVar[str] = "tile_ffn"
    changes: ClassVar[tuple[str, ...]] = ("ffn",)
    copies_units: ClassVar[bool] = True
    adds_units: ClassVar[bool] = True

    noise: Annotated[float, Field(ge=0)] = 0.0
    """Strength of the noise that breaks the symmetry between copies, relative to fresh weights. It cancels out, so the
    function is preserved. Without it copies stay equal forever."""
    seed: int = 0
    """Seed for the noise."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if "ffn" not in wanted:
            double = tuple(2 * source.block_ffn(source.block_of(layer)) for layer in range(source.layers))
            return source.replace(ffn=double)
        target = source.replace(ffn=wanted["ffn"])
        changed = list(changed_widths(source, target))
        if not changed:
            raise UserError(f"grow tile_ffn: ffn {source.ffn} -> {target.ffn} adds nothing; ask for a multiple")
        for axis, _, old, new in changed:
            check_width(self.name, axis, old, new, whole=False)
            if new % old:
                raise UserError(f"grow tile_ffn: ffn {old} -> {new} is not a multiple; use widen")
        return target

    def copied_units(self, source: BertConfig, target: BertConfig) -> frozenset[tuple[str, int | None]]:
        return copied_units(source, target)

    @property
    def tells_copies_apart(self) -> bool:
        return self.noise > 0 or self.moments == "new_units"

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        maps_of = axis_maps(source, target, lambda axis, block, old, new: AxisMap.copies(torch.arange(new) % old, old))

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            maps = maps_of(spec.block)
            record = expand(spec, fetch(spec.name), maps, self.moments)
            return with_noise(target, spec, record, maps, self.noise, self.seed)

        return ShapeChange(source, target, rule)
