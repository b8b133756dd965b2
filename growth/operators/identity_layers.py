"""Identity layers: the added layers output zero, so the residual stream passes through unchanged.

Shen et al. 2022 (staged training, arXiv 2203.06211); LEMON's "all zero" (Wang et al. 2024, arXiv 2310.07999). With
pre-LN the function is preserved (tier 1). The added layers are copies of their neighbour, except that the last linear
layer of each branch is zero. Their moments are the neighbour's, an estimate (tier 3): an added layer starts to move
like the layer it copies.
"""

from dataclasses import replace
from typing import ClassVar, Literal

from growth.change import ShapeChange
from growth.operators.base import Inputs
from growth.operators.depth import DepthOperator
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.lazy import torch
from model.parameters import ParameterSpec

BRANCH_OUTPUTS = ("attention.output.", "feedforward.output.")


class IdentityLayers(DepthOperator):
    name: ClassVar[str] = "identity_layers"

    place: Literal["between", "top"] = "between"
    """Where the new layers go: `between` puts each after the layer it copies, `top` puts all of them on top."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if source.norm != "pre":
            raise UserError(
                "grow identity_layers: with norm post, LayerNorm changes the output of an empty layer; use stack, "
                "or a model with norm pre"
            )
        if source.sharing is not None:
            raise UserError(
                "grow identity_layers: layers share blocks, so an empty one would empty the others; unshare first"
            )
        target = super().target(source, wanted)
        copied = self.source_layers(source.layers, target.layers)
        for layer in range(source.layers):
            if source.is_local(layer) != target.is_local(place := copied.index(layer)):
                kinds = "local to global" if source.is_local(layer) else "global to local"
                raise UserError(
                    f"grow identity_layers: layer {layer} would become layer {place} and go from {kinds}; use place "
                    "top, or interleave, which does not keep the function"
                )
        return target

    def source_layers(self, num_old: int, num_new: int) -> list[int]:
        if self.place == "top":
            return [layer % num_old for layer in range(num_new)]
        return [layer * num_old // num_new for layer in range(num_new)]

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        copied = self.source_layers(source.layers, target.layers)
        added = {layer for layer in range(target.layers) if copied[layer] in copied[:layer]}
        copies = super().rule(source, target, inputs)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            record = copies.record(spec.name, fetch)
            if spec.block not in added:
                return record
            is_output = spec.local_name.startswith(BRANCH_OUTPUTS)
            weight = torch.zeros_like(record.weight) if is_output else record.weight
            return replace(record, weight=weight)

        return ShapeChange(source, target, rule)
