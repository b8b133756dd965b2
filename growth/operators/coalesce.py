"""Coalescing: down one level of a V-cycle, to a smaller model that averages units and layers.

Zou et al. 2024 (arXiv 2404.07999): F averages the units i and i + n (row-normalised), R averages neighbouring layers.
In our terms this is the inverse of the de-coalescing maps, (C^T, P^T): weights are averaged over produced units and
summed over consumed ones. Tier 3: the function changes unless the units are copies; then `coalesce(decoalesce(x)) ==
x`. exp_avg follows the same algebra. exp_avg_sq does too if the merged units and layers see the same gradients, as
copies do; the average of n gradients that disagree has as little as 1 / n of that mean square. exp_avg shows how much
they agree, so exp_avg_sq is scaled to make updates as large as those of the merged entries were.
"""

from dataclasses import replace
from typing import ClassVar

from growth.change import ShapeChange, mean_record, source_name
from growth.expansion import expand
from growth.operators.base import Inputs
from growth.operators.multilevel import LevelOperator, level_maps
from growth.state import Fetch, Record
from growth.update_size import UpdateSize
from model.config import BertConfig
from model.parameters import ParameterSpec, parameter_table


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
        old_table = parameter_table(source)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            if spec.block is None:
                names, pairs = [spec.name], maps[None]
            else:
                blocks = range(factor * spec.block, factor * (spec.block + 1))
                names, pairs = [source_name(spec, block) for block in blocks], maps[0]
            size = UpdateSize()
            record = mean_record(expand(spec, size.note(fetch(name)), pairs, self.moments) for name in names)
            if self.moments == "copy" or record.exp_avg_sq is None:
                return record
            num_merged = sum(old_table[name].numel for name in names) / spec.numel
            agreement = (1 / size.over(record)).clamp(1 / num_merged, 1)
            return replace(record, exp_avg_sq=record.exp_avg_sq * agreement)

        return ShapeChange(source, target, rule)
