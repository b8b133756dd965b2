"""Softmax attention replaces kernel attention: query, key, value and output keep their weights.

Yang et al. 2020 (CoRe, arXiv 2011.13633) refine their fast attention this way. The abstract names no kernel; ours are
in model/variants/kernel_attention. Tier 3: the function changes, and the unchanged moments are an estimate.
"""

from typing import ClassVar

from growth.change import ShapeChange, identity
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.errors import UserError


class SoftmaxAttention(Operator):
    name: ClassVar[str] = "softmax_attention"
    changes: ClassVar[tuple[str, ...]] = ("attention",)

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if source.attention == "softmax":
            raise UserError("grow softmax_attention: attention is softmax already; leave it out")
        if wanted.get("attention", "softmax") != "softmax":
            raise UserError(
                f"grow softmax_attention: attention {source.attention} -> {wanted['attention']} is not "
                "softmax; remove shape.attention"
            )
        return source.replace(attention="softmax", kernel_features=None)

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        return identity(source, target)
