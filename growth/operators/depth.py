"""Growing depth: each layer of the deep model copies a layer of the shallow one; the operators differ in which one."""

from collections.abc import Sequence
from typing import Any, ClassVar

from growth.change import ShapeChange, map_blocks
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.errors import UserError


class DepthOperator(Operator):
    changes: ClassVar[tuple[str, ...]] = ("layers",)

    def source_layers(self, num_old: int, num_new: int) -> list[int]:
        """The layer of the shallow model that each layer of the deep one copies."""
        raise NotImplementedError

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        layers = wanted.get("layers", 2 * source.layers)
        if layers < source.layers:
            raise UserError(f"grow {self.name}: layers {source.layers} -> {layers} removes layers; use coalesce")
        if layers == source.layers:
            raise UserError(
                f"grow {self.name}: layers {source.layers} -> {layers} adds none; ask for more, or leave it out"
            )
        copied = self.source_layers(source.layers, layers)

        def along_depth(values: Any) -> Any:
            """A per-layer list follows its layers; a single value is unchanged."""
            return tuple(values[layer] for layer in copied) if isinstance(values, tuple) else values

        sharing = None if source.sharing is None else tuple(source.block_of(layer) for layer in copied)
        return source.replace(
            layers=layers,
            heads=along_depth(source.heads),
            ffn=along_depth(source.ffn),
            sharing=sharing,
            light_layers=tuple(layer for layer in range(layers) if copied[layer] in source.light_layers),
            **source.moved_heads(lambda layer: _with_copies(layer - 1, copied) + 1),
        )

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        copied = self.source_layers(source.layers, target.layers)
        first_layers = (target.layers_of(block)[0] for block in range(target.num_blocks))
        return map_blocks(source, target, [source.block_of(copied[layer]) for layer in first_layers])


def _with_copies(layer: int, copied: Sequence[int]) -> int:
    """Where a layer stands in the deep model: at its lowest copy, or the last of several in a row."""
    place = copied.index(layer)
    while copied[place + 1 : place + 2] == [layer]:
        place += 1
    return place
