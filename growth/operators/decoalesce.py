"""De-coalescing: up one level of a V-cycle; units are copied and their consumers divided, layers are repeated.

Zou et al. 2024 (arXiv 2404.07999): T = the row-normalised transpose of the coalescing matrix, G likewise for depth.
They scale the embedding by 1/2. We divide mlm.norm instead, which feeds the tied decoder; the LayerNorm after the
embedding makes the two equal. Width alone preserves the function and the training state (tier 2). Depth does not
preserve the function (tier 3).
"""

from typing import ClassVar

from growth.change import ShapeChange, copied
from growth.expansion import expand
from growth.operators.base import Inputs
from growth.operators.multilevel import LevelOperator, at_depth, level_maps
from growth.operators.width import copied_units
from growth.state import Fetch, Record
from model.config import BertConfig
from model.parameters import ParameterSpec


class Decoalesce(LevelOperator):
    name: ClassVar[str] = "decoalesce"
    verb: ClassVar[str] = "shrinks"
    opposite: ClassVar[str] = "coalesce"
    copies_units: ClassVar[bool] = True

    @staticmethod
    def small_and_large(old: int, new: int) -> tuple[int, int]:
        return old, new

    def copied_units(self, source: BertConfig, target: BertConfig) -> frozenset[tuple[str, int | None]]:
        return copied_units(at_depth(source, target.layers), target)

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        maps_of = level_maps(source, target)
        factor = target.layers // source.layers

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            if spec.block is None:
                return expand(spec, fetch(spec.name), maps_of(None), self.moments)
            return expand(spec, copied(source, spec, spec.block // factor, fetch), maps_of(0), self.moments)

        return ShapeChange(source, target, rule)
