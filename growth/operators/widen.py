"""Widening: new units of hidden, heads, FFN or the embedding copy old ones; consumers divide their weights.

    copy   unit i copies unit i mod old. hidden only to multiples; heads and FFN to any size.
    fpi    bert2BERT's function-preserving initialization (Chen et al. 2022, arXiv 2110.07143), after Net2Net: units
           beyond a multiple copy random ones. Also takes hidden to any size, where it is not exact: LayerNorm's
           statistics see some units twice (their MLM loss went from 1.67 to 1.70 from 512 to 768).
    aki    bert2BERT's advanced knowledge initialization: new units come from the next layer. Breaks the symmetry.
    lemon  multiples with unequal fan-outs (Wang et al. 2024, arXiv 2310.07999): W / k + R - mean(R) over the k
           copies, with R the fresh weights of the wide model. `noise` does the same at any strength.

Exact copies get the same gradients: those of FFN units stay equal forever, those of hidden units and heads until
dropout separates them, and the new width is wasted. So copy and fpi come with noise. It is added to what consumes the
copies and sums to zero over the copies of a unit: the function stays (tier 1; the moments are those without noise),
and each copy has its own gradients from the first step on. With `noise: 0` copy, and fpi with equal copies of hidden
units, preserve the whole training state (tier 2). aki and uneven hidden: tier 3; heads and FFN units of aki's top layer
are exact copies unless there is noise.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from growth.change import ShapeChange, source_name
from growth.expansion import AxisMap, expand
from growth.operators.base import Inputs, Operator
from growth.operators.width import (
    FIELDS,
    NORMALISED,
    axis_maps,
    changed_widths,
    copied_units,
    wanted_widths,
    with_noise,
)
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.lazy import torch
from model.parameters import ParameterSpec, parameter_table

Axis = Literal["hidden", "heads", "ffn", "embedding"]
DEFAULT_NOISE = {"copy": 0.3, "fpi": 0.3, "aki": 0.0, "lemon": 1.0}
SHRINKING = {"heads": "prune_heads", "ffn": "prune_neurons"}


class Widen(Operator):
    name: ClassVar[str] = "widen"
    changes: ClassVar[tuple[str, ...]] = tuple(FIELDS.values())
    copies_units: ClassVar[bool] = True
    adds_units: ClassVar[bool] = True

    axis: Axis | tuple[Axis, ...] | None = None
    """What to widen. Defaults to every axis that the shape widens. Name axes to leave the others to another
    operator."""
    how: Literal["copy", "fpi", "aki", "lemon"] = "copy"
    """How new units start (above). `copy` is exact; use `fpi` for a hidden size that is not a multiple."""
    noise: Annotated[float, Field(ge=0)] | None = None
    """Strength of the noise that tells copies apart, relative to fresh weights. It cancels out, so the function is
    preserved. Defaults to 0.3 for copy and fpi, 1 for lemon and 0 for aki. 0 makes exact copies."""
    seed: int = 0
    """Seed for the random choices and the noise."""

    @property
    def strength(self) -> float:
        """Of the noise. Fan-outs of lemon are unequal in any case."""
        if self.noise is None or (self.how == "lemon" and not self.noise):
            return DEFAULT_NOISE[self.how]
        return self.noise

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

    def copied_units(self, source: BertConfig, target: BertConfig) -> frozenset[tuple[str, int | None]]:
        copied = copied_units(source, target)
        if self.how != "aki":
            return copied
        return frozenset((axis, block) for axis, block in copied if block == source.num_blocks - 1)

    @property
    def tells_copies_apart(self) -> bool:
        return self.strength > 0 or self.moments == "new_units"

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        maps_of = axis_maps(source, target, self._map)
        old_table = parameter_table(source)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            maps = maps_of(spec.block)
            record = expand(spec, fetch(spec.name), maps, self.moments)
            if self.how == "aki" and spec.block is not None and spec.block + 1 < source.num_blocks:
                above = old_table[source_name(spec, spec.block + 1)]
                if above.shape == old_table[spec.name].shape:
                    record = with_new_units(spec, record, expand(spec, fetch(above.name), maps, self.moments), maps)
            return with_noise(target, spec, record, maps, self.strength, self.seed)

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
