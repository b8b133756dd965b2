"""Tiling from the centre: a whole model of any larger size, with the old one in the middle of each of its matrices.

As ModernBERT-large began from ModernBERT-base (Warner et al. 2024, arXiv 2412.13663, after the Phi models): along every
axis that widens, from `old` to `new` units, unit i copies unit (i - (new - old) // 2) mod old, so that the old matrix
stands in the centre and wraps around its edges. A deeper model spreads the old layers evenly: layer i copies layer
round(i L_old / L_new). Theirs copied weights as they were; here what consumes copies divides by their number, as
everywhere, so that sums keep their size. Heads are copied whole.

Heads and FFN units to any number, and hidden units to a multiple, keep the function, as in `widen`. All else is tier 3:
some units count more than others in LayerNorm, copied layers compute twice, and the layers' new numbers decide which
have local attention. Copies of heads and FFN units would stay equal forever without dropout, so noise that
cancels out tells them apart, as in `widen`.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from growth.change import ShapeChange
from growth.expansion import AxisMap, expand
from growth.operators.base import Inputs, Operator
from growth.operators.depth import DepthOperator
from growth.operators.width import FIELDS, axis_maps, changed_widths, copied_units, wanted_widths, with_noise
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.lazy import torch
from model.parameters import ParameterSpec


class TileCenter(Operator):
    name: ClassVar[str] = "tile_center"
    changes: ClassVar[tuple[str, ...]] = ("layers", *FIELDS.values())
    copies_units: ClassVar[bool] = True

    noise: Annotated[float, Field(ge=0)] = 0.3
    """Strength of the noise that tells copies apart, relative to fresh weights. It cancels out. 0: exact copies."""
    seed: int = 0
    """Seed for the noise."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        deep = self._deeper(source, wanted)
        target = deep.replace(**wanted_widths(wanted))
        changed = list(changed_widths(deep, target))
        if (target.embedding_size is None) != (source.embedding_size is None):
            verb, remedy = ("add", "leave it out") if target.embedding_size else ("remove", "choose a smaller one")
            raise UserError(
                f"grow tile_center: embedding_size {source.embedding_width} -> {target.embedding_width} with hidden "
                f"{source.hidden} -> {target.hidden} would {verb} the projection between them; {remedy}"
            )
        if target == source:
            raise UserError("grow tile_center: the shape changes neither layers nor widths; set larger ones there")
        for axis, _, old, new in changed:
            if new < old:
                raise UserError(f"grow tile_center: {axis} {old} -> {new} shrinks; use coalesce or prune")
        return target

    def copied_units(self, source: BertConfig, target: BertConfig) -> frozenset[tuple[str, int | None]]:
        return copied_units(self._deeper(source, PartialShape({"layers": target.layers})), target)

    @property
    def tells_copies_apart(self) -> bool:
        return self.noise > 0

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        deep = self._deeper(source, PartialShape({"layers": target.layers}))
        maps_of = axis_maps(deep, target, centred)

        def wider(spec: ParameterSpec, fetch: Fetch) -> Record:
            maps: Mapping[str, AxisMap] = maps_of(spec.block)
            record = expand(spec, fetch(spec.name), maps, self.moments)
            return with_noise(target, spec, record, maps, self.noise, self.seed)

        widen = ShapeChange(deep, target, wider)
        return widen if deep == source else _Depth().rule(source, deep, inputs).then(widen)

    @staticmethod
    def _deeper(source: BertConfig, wanted: PartialShape) -> BertConfig:
        """The shape with its new layers, as wide as those they copy."""
        layers = wanted.get("layers", source.layers)
        return source if layers == source.layers else _Depth().target(source, PartialShape({"layers": layers}))


class _Depth(DepthOperator):
    name: ClassVar[str] = "tile_center"  # in what it tells the user

    def source_layers(self, num_old: int, num_new: int) -> list[int]:
        return [min(round(layer * num_old / num_new), num_old - 1) for layer in range(num_new)]


def centred(axis: str, block: int | None, old: int, new: int) -> AxisMap:
    """The old units in the middle, and their copies around them."""
    return AxisMap.copies((torch.arange(new) - (new - old) // 2) % old, old)
