"""Folding slimming coefficients: they are multiplied into the output layers, W' = W c, and removed as parameters.

Use it after the search of Chen et al. 2021 (EarlyBERT, arXiv 2101.00063) to continue from the searched weights. After
`rewind`, drop them instead (`fold: false`), since they were 1 at that time. Folding preserves the function (tier 1).
Moments are unchanged: the exact ones are divided by c, which cancels in Adam's ratio of moments.
"""

from dataclasses import replace
from typing import ClassVar

from growth.change import ShapeChange
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.parameters import ParameterSpec


class FoldSlimming(Operator):
    name: ClassVar[str] = "fold_slimming"
    changes: ClassVar[tuple[str, ...]] = ("slimming",)

    fold: bool = True
    """Whether to multiply the coefficients into the weights. `false` drops them, as after `rewind`."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if source.slimming is None:
            raise UserError("grow fold_slimming: there are no slimming coefficients to fold; leave it out")
        return source.replace(slimming=None)

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            record = fetch(spec.name)
            branch, _, rest = spec.name.rpartition(".output.")
            if not self.fold or spec.block is None or rest not in ("weight", "down"):
                return record
            coefficients = fetch(f"{branch}.coefficients").weight
            position = next(i for i, axis in enumerate(spec.axes) if axis.name in ("heads", "ffn"))
            shape = [-1 if i == position else 1 for i in range(len(spec.axes))]
            return replace(record, weight=record.weight * coefficients.view(shape))

        return ShapeChange(source, target, rule)
