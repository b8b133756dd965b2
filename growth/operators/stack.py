"""Stacking: the deep model starts as copies of the shallow one, layer i from layer i mod L.

Gong et al. 2019 (PMLR v97, StackBERT); Gu et al. 2021 (CompoundGrow, arXiv 2010.12562), section on depth. Tier 3: the
function changes, and a copied layer's moments are an estimate of what its gradients will be.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from growth.change import ShapeChange, map_blocks
from growth.operators.base import Correlation, Operator
from model.config import BertConfig
from model.errors import UserError


class Stack(Operator):
    name: ClassVar[str] = "stack"
    changes: ClassVar[tuple[str, ...]] = ("layers",)

    def target(self, source: BertConfig, wanted: Mapping[str, Any]) -> BertConfig:
        layers = wanted.get("layers", 2 * source.layers)
        if layers <= source.layers:
            raise UserError(f"grow stack: layers {source.layers} -> {layers} does not add layers; ask for more")

        def along_depth(values):
            """A per-layer list follows its layers; one value stays."""
            return [values[i % source.layers] for i in range(layers)] if isinstance(values, tuple) else values

        sharing = source.sharing
        if isinstance(sharing, tuple):
            sharing = along_depth(sharing)
        return source.replace(
            layers=layers, heads=along_depth(source.heads), ffn=along_depth(source.ffn), sharing=sharing
        )

    def rule(self, source: BertConfig, target: BertConfig, correlation: Correlation | None) -> ShapeChange:
        first_layers = (target.layers_of(block)[0] for block in range(target.num_blocks))
        return map_blocks(source, target, [source.block_of(layer % source.layers) for layer in first_layers])
