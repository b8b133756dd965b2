"""Widening: new units of hidden, heads, FFN or the embedding copy old ones; consumers divide their weights.

    copy   unit i copies unit i mod old. hidden only to multiples; heads and FFN to any size.
    fpi    bert2BERT's function-preserving initialization (Chen et al. 2022, arXiv 2110.07143), after Net2Net: units
           beyond a multiple copy random ones. Also takes hidden to any size, where it is not exact: LayerNorm's
           statistics see some units twice (their MLM loss went from 1.67 to 1.70 from 512 to 768).
    aki    bert2BERT's advanced knowledge initialization: new units come from the next layer. Breaks the symmetry.
    lemon  multiples with unequal fan-outs (Wang et al. 2024, arXiv 2310.07999): W / k + R - mean(R) over the k
           copies, with R the fresh weights of the wide model. `noise` does the same at any strength.

copy, and fpi with equal copies of hidden units, preserve the function and the whole training state (tier 2). noise and
lemon preserve the function (tier 1); the moments are those without noise. aki and uneven hidden: tier 3. Equal copies
of FFN units stay equal forever, those of hidden units and heads until dropout separates them.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from growth.change import ShapeChange, source_name
from growth.expansion import AxisMap, expand
from growth.operators.base import Inputs, Operator
from growth.operators.width import FIELDS, NORMALISED, axis_maps, changed_widths, wanted_widths, with_noise
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.parameters import ParameterSpec, parameter_table

Axis = Literal["hidden", "heads", "ffn", "embedding"]
SHRINKING = {"heads": "prune_heads", "ffn": "prune_neurons"}


class Widen(Operator):
    name: ClassVar[str] = "widen"
    changes: ClassVar[tuple[str, ...]] = tuple(FIELDS.values())

    axis: Axis | tuple[Axis, ...] | None = None
    """What to widen. Defaults to every axis that the shape widens. Name axes to leave the others to another
    operator."""
    how: Literal["copy", "fpi", "aki", "lemon"] = "copy"
    """How new units start (above). `copy` is exact; use `fpi` for a hidden size that is not a multiple."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Strength of the noise that breaks the symmetry between copies, relative to fresh weights. It cancels out, so the
    function is preserved. Use it if copies would stay equal, as FFN units do."""
    seed: int = 0
    """Seed for the random choices and the noise."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        chosen = (self.axis,) if isinstance(self.axis, str) else self.axis
        axes: tuple[str, ...] = chosen or tuple(FIELDS)
        target = source.replace(**wanted_widths(wanted, {axis: FIELDS[axis] for axis in axes}))
        changed = list(changed_widths(source, target))
        if not changed or (target.embedding_size is None) != (source.embedding_size is None):
            raise UserError(f"grow widen: the shape does not change {', '.join(axes)}; set the new width there")
        for axis, _, old, new in changed:
            check_width(self.name, axis, old, new, whole=axis in NORMALISED and self.how in ("copy", "lemon"))
            if self.how == "lemon" and new % old:
                raise UserError(
                    f"grow widen: {axis} {old} -> {new} is not a multiple, as lemon requires; use how: copy"
                )
        return target

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        maps_of = axis_maps(source, target, self._map)
        noise = self.noise or float(self.how == "lemon")
        old_table = parameter_table(source)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            maps = maps_of(spec.block)
            record = expand(spec, fetch(spec.name), maps, self.moments)
            if self.how == "aki" and spec.block is not None and spec.block + 1 < source.num_blocks:
                above = old_table[source_name(spec, spec.block + 1)]
                if above.shape == old_table[spec.name].shape:
                    record = with_new_units(spec, record, expand(spec, fetch(above.name), maps, self.moments), maps)
            return with_noise(target, spec, record, maps, noise, self.seed)

        return ShapeChange(source, target, rule)

    def _map(self, axis: str, block: int | None, old: int, new: int) -> AxisMap:
        index = torch.arange(new) % old
        if self.how in ("fpi", "aki"):
            generator = torch.Generator().manual_seed(
                hash((self.seed, list(FIELDS).index(axis), block or 0)) & (2**62 - 1)
            )
            index[new - new % old :] = torch.randperm(old, generator=generator)[: new % old]
        return AxisMap.copies(index, old)


def with_new_units(spec: ParameterSpec, record: Record, other: Record, maps: Mapping[str, AxisMap]) -> Record:
    """The record, with produced units beyond the old size taken from another record."""
    tensors = []
    for own, theirs in zip(record.tensors(), other.tensors(), strict=True):
        for position, axis in enumerate(spec.axes):
            if axis.role == "produced" and axis.name in maps:
                old = maps[axis.name].old_size
                own = torch.cat(
                    [own.narrow(position, 0, old), theirs.narrow(position, old, axis.size - old)], dim=position
                )
        tensors.append(own)
    return Record.of(tensors, record.step)


def check_width(operator: str, axis: str, old: int, new: int, whole: bool) -> None:
    """Raises UserError if copies cannot lead from one width to the other."""
    if new < old:
        raise UserError(f"grow {operator}: {axis} {old} -> {new} shrinks; use {SHRINKING.get(axis, 'coalesce')}")
    if whole and new % old:
        raise UserError(
            f"grow {operator}: {axis} {old} -> {new} is not a multiple, so LayerNorm would see some units more often "
            "than others; use mask_growth, which is exact, or accept the error with {widen: {how: fpi}}"
        )
