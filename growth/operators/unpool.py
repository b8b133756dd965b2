"""Unpooling: the input is no longer pooled before the first layer; no parameter changes.

Gu et al. 2021 (CompoundGrow, arXiv 2010.12562), the length operator: the cheap stages pool the context by 2 and train
the whole position table; growing removes the pooling. Tier 3: the function changes; the unchanged moments are an
estimate.
"""

from typing import ClassVar

from growth.change import ShapeChange, identity
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.errors import UserError


class Unpool(Operator):
    name: ClassVar[str] = "unpool"
    changes: ClassVar[tuple[str, ...]] = ("pool_window",)

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        new = wanted.get("pool_window", 1)
        if new >= source.pool_window:
            raise UserError(
                f"grow unpool: pool_window {source.pool_window} -> {new} does not pool less; ask for a smaller window"
            )
        return source.replace(pool_window=new)

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        return identity(source, target)
