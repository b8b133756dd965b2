"""Rewinding: back to the weights of an earlier state of the same shape, with a fresh optimizer.

Chen et al. 2021 (EarlyBERT, arXiv 2101.00063), from its released code: the ticket that the search has drawn is trained
from the weights before the first step. Learned slimming coefficients stay, so that pruning after this goes by them.
Tier 3: the function becomes the earlier one; every moment and step starts anew.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from growth.change import ShapeChange
from growth.operators.base import Inputs, Operator
from growth.operators.interpolate import check_same_tensors
from growth.state import Fetch, Record
from model.config import BertConfig
from model.parameters import ParameterSpec

INITIAL = "initial"
"""The name of a run's state before its first step."""


class Rewind(Operator):
    name: ClassVar[str] = "rewind"
    changes: ClassVar[tuple[str, ...]] = ()

    checkpoint: str = INITIAL
    """The earlier state: `initial` is the run's before its first step; else the name that an earlier stage keeps, a
    run's folder or one of its checkpoints."""

    def target(self, source: BertConfig, wanted: Mapping[str, Any]) -> BertConfig:
        return source

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        config, fetch_saved = inputs.saved(self.checkpoint)
        check_same_tensors(self.name, self.checkpoint, config, source)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            is_coefficient = spec.name.endswith(".coefficients")
            return (fetch if is_coefficient else fetch_saved)(spec.name).without_moments()

        return ShapeChange(source, target, rule)
