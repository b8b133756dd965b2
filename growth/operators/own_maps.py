"""Own attention maps for light layers, which reused the map of the layer below.

Gu et al. 2021 (CompoundGrow, arXiv 2010.12562), from its released code: query and key are copied from the layer whose
map was reused. Tier 3: the function changes because the two layers have different inputs; the copied moments are an
estimate.
"""

from typing import ClassVar

from growth.change import ShapeChange, source_name
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.parameters import ParameterSpec, parameter_table


class OwnMaps(Operator):
    name: ClassVar[str] = "own_maps"
    changes: ClassVar[tuple[str, ...]] = ("light_layers",)

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        target = source.replace(light_layers=tuple(wanted.get("light_layers", ())))
        if not set(target.light_layers) < set(source.light_layers):
            raise UserError(
                f"grow own_maps: light_layers {list(source.light_layers)} -> {list(target.light_layers)} gives no "
                "layer a map of its own; leave some out"
            )
        return target

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        old_table = parameter_table(source)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            if spec.name in old_table:
                return fetch(spec.name)
            assert spec.block is not None
            layer = target.layers_of(spec.block)[0]
            below = max(other for other in range(layer) if other not in source.light_layers)
            return fetch(source_name(spec, source.block_of(below)))

        return ShapeChange(source, target, rule)
