"""Shared by the operators on width: the axes that a shape change touches, the map of each, and noise between copies."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from growth.expansion import AxisMap
from growth.partial_shape import PartialShape
from growth.state import Record
from model.config import BertConfig
from model.initialize import initial_weight
from model.parameters import ParameterSpec

FIELDS = {"hidden": "hidden", "heads": "heads", "ffn": "ffn", "embedding": "embedding_size"}
"""Axes of the parameter table with their own width, and the field of BertConfig that sets it."""

NORMALISED = ("hidden", "embedding")
"""Axes that a LayerNorm runs over. It couples their units, so all must be copied equally often."""


def width(config: BertConfig, axis: str, block: int | None) -> int | None:
    """The size of an axis inside a block; None: a block has none of its own (or the model none at all)."""
    if axis == "heads":
        return None if block is None else config.block_heads(block)
    if axis == "ffn":
        return None if block is None else config.block_ffn(block)
    return config.hidden if axis == "hidden" else config.embedding_size


def changed_widths(source: BertConfig, target: BertConfig) -> Iterator[tuple[str, int | None, int, int]]:
    """(axis, block, old size, new size) wherever two shapes with the same blocks differ in width."""
    assert source.num_blocks == target.num_blocks
    for block in (None, *range(source.num_blocks)):
        for axis in FIELDS:
            if (axis in NORMALISED) == (block is None):
                old, new = width(source, axis, block), width(target, axis, block)
                if old is not None and new is not None and old != new:
                    yield axis, block, old, new


def copied_units(source: BertConfig, target: BertConfig) -> frozenset[tuple[str, int | None]]:
    """`Operator.copied_units` where every new unit is a copy."""
    return frozenset((axis, block) for axis, block, _, _ in changed_widths(source, target))


def axis_maps(
    source: BertConfig, target: BertConfig, make: Callable[[str, int | None, int, int], AxisMap]
) -> Callable[[int | None], Mapping[str, AxisMap]]:
    """The maps of a block (None: of what stands outside), made once for each changed width by `make(axis, block, old,
    new)`; what the blocks have in common is the same in all of them."""
    made = {(axis, block): make(axis, block, old, new) for axis, block, old, new in changed_widths(source, target)}
    return lambda block: {axis: pair for (axis, owner), pair in made.items() if owner in (None, block)}


def with_noise(
    target: BertConfig, spec: ParameterSpec, record: Record, maps: Mapping[str, AxisMap], strength: float, seed: int
) -> Record:
    """Plus `strength` times fresh weights minus their mean over the copies of each unit, where the parameter consumes
    copies: its output stays, and from now on each copy gets its own gradients."""
    consumed = [(i, axis.name) for i, axis in enumerate(spec.axes) if axis.role == "consumed" and axis.name in maps]
    if not strength or not consumed:
        return record
    noise = initial_weight(target, spec.name, seed).to(record.weight)
    for position, axis in consumed:
        noise = maps[axis].without_mean(position, noise)
    return replace(record, weight=record.weight + strength * noise)


def wanted_widths(wanted: PartialShape, axes: Mapping[str, str] = FIELDS) -> dict[str, Any]:
    """The fields of a wanted shape that set widths."""
    return {field: wanted[field] for field in axes.values() if wanted.get(field) is not None}
