"""Interpolation with a saved state of the same shape: theta = (1 - alpha) theta_saved + alpha theta.

Zou et al. 2024 (arXiv 2404.07999), the last step of the V-cycle: the saved state is that of the large model before
coalescing. It breaks the symmetry that de-coalescing leaves. alpha 1 is the identity, 0 takes the saved weights. Tier
3: the moments are those of the current state, an estimate of the mixture's.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from growth.operators.saved_state import SavedStateOperator
from growth.state import Fetch, Record
from model.lazy import torch
from model.parameters import ParameterSpec


class Interpolate(SavedStateOperator):
    name: ClassVar[str] = "interpolate"

    checkpoint: str
    """The saved state: a name that an earlier stage keeps, the folder of a run, or one of its checkpoints."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the current state; the saved state has weight 1 - alpha. The paper takes 0.5 for BERT and 0.25 for
    GPT."""

    def record(self, spec: ParameterSpec, fetch: Fetch, fetch_saved: Fetch) -> Record:
        record = fetch(spec.name)
        saved = fetch_saved(spec.name).weight.to(record.weight)
        return replace(record, weight=torch.lerp(saved, record.weight, self.alpha))
