"""Interpolation with a saved state of the same shape: theta = (1 - alpha) theta_saved + alpha theta.

Zou et al. 2024 (arXiv 2404.07999), the last step of the V-cycle, where the saved state is the large model's from
before coalescing; it breaks the symmetry that de-coalescing leaves. alpha 1 is the identity, 0 takes the saved
weights. Tier 3: the moments are those of the state that goes on training, an estimate of the mixture's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from growth.change import ShapeChange
from growth.operators.base import Inputs, Operator
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.parameters import ParameterSpec, parameter_table


class Interpolate(Operator):
    name: ClassVar[str] = "interpolate"
    changes: ClassVar[tuple[str, ...]] = ()

    checkpoint: str
    """The saved state: the name that an earlier stage keeps, a run's folder or one of its checkpoints."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Part of the state that goes on (the paper: 0.5 for BERT, 0.25 for GPT)."""

    def target(self, source: BertConfig, wanted: Mapping[str, Any]) -> BertConfig:
        return source

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        config, fetch_saved = inputs.saved(self.checkpoint)
        check_same_tensors(self.name, self.checkpoint, config, source)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            record = fetch(spec.name)
            saved = fetch_saved(spec.name).weight.to(record.weight)
            return replace(record, weight=torch.lerp(saved, record.weight, self.alpha))

        return ShapeChange(source, target, rule)


def check_same_tensors(operator: str, checkpoint: str, saved: BertConfig, source: BertConfig) -> None:
    """Raises UserError unless a saved state has the parameters of the one that goes on."""
    shapes = [{name: spec.shape for name, spec in parameter_table(each).items()} for each in (saved, source)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"grow {operator}: {checkpoint} holds {saved.summary()}, the state here is {source.summary()}; "
            "go back to the same shape first"
        )
