"""Fresh layers on top, drawn at random: the only way to grow a model without layers, and the control for growing by
copies (Gong et al. 2019, StackBERT, PMLR v97).

With one late change of depth, random new layers do as well as copies (2511.04981). Tier 3: the function changes. New
layers begin as in the first step of a run: at step 0 without moments, so their first updates are as large as there.
What was there keeps its state.
"""

from typing import ClassVar

from growth.change import ShapeChange
from growth.operators.base import Inputs
from growth.operators.depth import DepthOperator
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.initialize import initial_weight
from model.parameters import ParameterSpec


class FreshLayers(DepthOperator):
    name: ClassVar[str] = "fresh_layers"
    takes_no_layers: ClassVar[bool] = True

    seed: int | None = None
    """Seed of the new weights. Defaults to the run's, whose layers from scratch begin with the same weights, at this
    depth: `output_init: scaled` depends on it."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        target = super().target(source, wanted)
        if source.sharing is None:
            return target
        old = (source.block_of(layer) for layer in range(source.layers))
        num_new = target.layers - source.layers
        return target.replace(sharing=(*old, *range(source.num_blocks, source.num_blocks + num_new)))

    def source_layers(self, num_old: int, num_new: int) -> list[int]:
        """New layers are as wide as the topmost old one."""
        return [min(layer, num_old - 1) for layer in range(num_new)]

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        seed = inputs.seed if self.seed is None else self.seed

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            is_new = spec.block is not None and spec.block >= source.num_blocks
            return Record.fresh(initial_weight(target, spec.name, seed)) if is_new else fetch(spec.name)

        return ShapeChange(source, target, rule)
