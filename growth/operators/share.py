"""Sharing: layers with their own blocks come to share one, the mean of theirs. The inverse of `unshare`.

Tier 3: the function changes unless the blocks are equal. The shared block's gradient is the mean over its uses, so
exp_avg is the mean, and exp_avg_sq the mean times (1 + (n - 1) rho) / n, with rho the mean correlation between the
gradients of the uses (see unshare.py), measured on a probe batch. Where the blocks' exp_avg agree more than that, as in
layers just unshared, exp_avg is reduced so that updates do not become larger than they were.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from growth.change import ShapeChange, mean_record, source_name
from growth.operators.base import Inputs, Operator
from growth.operators.unshare import mean_square
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from growth.update_size import UpdateSize
from model.config import BertConfig
from model.errors import UserError
from model.parameters import ParameterSpec


class Share(Operator):
    name: ClassVar[str] = "share"
    changes: ClassVar[tuple[str, ...]] = ("sharing",)

    correlation: Annotated[float, Field(ge=0, le=1)] | None = None
    """Mean correlation between the gradients of the layers that will share a block. By default it is measured on a
    probe batch; give a number if that is not possible."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        target = source.replace(sharing=wanted.get("sharing", 1))
        splits = any(
            len({target.block_of(layer) for layer in source.layers_of(block)}) > 1 for block in range(source.num_blocks)
        )
        if splits or target.num_blocks >= source.num_blocks:
            raise UserError(
                f"grow share: sharing {source.sharing} -> {target.sharing} splits blocks or merges none; "
                "ask for fewer blocks, or use unshare"
            )
        return target

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        scaled = self.moments == "transform"
        measured = inputs.correlation(source, target, inputs.fetch) if scaled and self.correlation is None else {}

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            if spec.block is None:
                return fetch(spec.name)
            layers = target.layers_of(spec.block)
            blocks = [source.block_of(layer) for layer in layers]
            size = UpdateSize()
            record = mean_record(size.note(fetch(source_name(spec, block))) for block in blocks)
            if not scaled or len(set(blocks)) == 1 or record.exp_avg_sq is None:
                return record
            rho = measured[spec.name] if self.correlation is None else self.correlation
            # Each old exp_avg_sq was that of a mean over the old block's own uses.
            old = sum(mean_square(len(source.layers_of(block)), rho) for block in blocks) / len(blocks)
            record = replace(record, exp_avg_sq=record.exp_avg_sq * (mean_square(len(layers), rho) / old))
            return replace(record, exp_avg=record.exp_avg * size.over(record).clamp(max=1).sqrt())

        return ShapeChange(source, target, rule)
