"""Appending copies of the top layers: the L_new - L_old new layers start as copies of the topmost old ones.

Yang et al. 2020 (MSLT, "Progressively Stacking 2.0", arXiv 2011.13635): new layer j copies layer 2 L_old - L_new + j
(new layers counted from 0). Tier 3: the moments of the copies are an estimate. The method freezes the old layers while
the new ones are trained.
"""

from typing import ClassVar

from growth.operators.depth import DepthOperator
from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.errors import UserError


class AppendTop(DepthOperator):
    name: ClassVar[str] = "append_top"

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        target = super().target(source, wanted)
        if target.layers > 2 * source.layers:
            raise UserError(
                f"grow append_top: layers {source.layers} -> {target.layers} needs more copies than there are layers; "
                f"ask for at most {2 * source.layers}, or use stack"
            )
        return target

    def source_layers(self, num_old: int, num_new: int) -> list[int]:
        return [*range(num_old), *(layer - (num_new - num_old) for layer in range(num_old, num_new))]
