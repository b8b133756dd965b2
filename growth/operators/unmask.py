"""Unmasking: units that have faded in (`mask_growth`) become ordinary units; no parameter changes.

Yao et al. 2024 (MSG, arXiv 2305.02869). With the mask at 1 the function and the training state are preserved (tier 2);
a mask still below 1 jumps to 1 (tier 3).
"""

from typing import ClassVar

from growth.change import ShapeChange, identity
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.errors import UserError


class Unmask(Operator):
    name: ClassVar[str] = "unmask"
    changes: ClassVar[tuple[str, ...]] = ("masked",)
    finishes: ClassVar[bool] = True

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if source.masked is None:
            raise UserError("grow unmask: no units fade in, so there is no mask to remove; leave it out")
        return source.replace(masked=None)

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        return identity(source, target)
