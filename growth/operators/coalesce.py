"""Coalescing: down one level of a V-cycle, to a smaller model that keeps what units and layers have in common.

Zou et al. 2024 (arXiv 2404.07999): F averages the units i and i + n (row-normalised), R averages neighbouring layers.
In our terms the inverse of the de-coalescing maps, (C^T, P^T): weights are averaged over produced units and summed
over consumed ones. Tier 3: the function changes unless the units are copies, and then `coalesce(decoalesce(x)) == x`.
Moments follow the same algebra; exp_avg_sq is that of units which agree, so updates come out at most 2x too small,
never too large.
"""

from typing import ClassVar

from growth.change import ShapeChange, mean_record, source_name
from growth.expansion import expand
from growth.operators.base import Inputs
from growth.operators.multilevel import LevelOperator, level_maps
from growth.state import Fetch, Record
from model.config import BertConfig
from model.parameters import ParameterSpec


class Coalesce(LevelOperator):
    name: ClassVar[str] = "coalesce"
    verb: ClassVar[str] = "grows"
    opposite: ClassVar[str] = "decoalesce"

    @staticmethod
    def small_and_large(old: int, new: int) -> tuple[int, int]:
        return new, old

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        upward = level_maps(target, source)
        maps = {block: {axis: pair.inverse() for axis, pair in upward(block).items()} for block in (None, 0)}
        factor = source.layers // target.layers

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            if spec.block is None:
                return expand(spec, fetch(spec.name), maps[None], self.moments)
            blocks = range(factor * spec.block, factor * (spec.block + 1))
            layers = [expand(spec, fetch(source_name(spec, block)), maps[0], self.moments) for block in blocks]
            return mean_record(layers)

        return ShapeChange(source, target, rule)
