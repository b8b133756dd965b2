"""What every operator is: a checked set of options that leads from one shape to another."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from growth.change import MomentPolicy, ShapeChange
from model.config import BertConfig

Correlation = Mapping[str, float]
"""For each parameter of a shared block, the mean correlation between the gradients of its uses."""


class Operator(BaseModel):
    """One kind of shape change. Its fields are its options in a recipe: `grow: {unshare: {moments: copy}}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    changes: ClassVar[tuple[str, ...]]
    """Fields of BertConfig this operator can change."""
    needs_correlation: ClassVar[bool] = False

    moments: MomentPolicy = "transform"

    def target(self, source: BertConfig, wanted: Mapping[str, Any]) -> BertConfig:
        """The shape this operator leads to: the wanted values of the fields it changes.

        Raises UserError when it cannot get there from `source`.
        """
        raise NotImplementedError

    def change(self, source: BertConfig, target: BertConfig, correlation: Correlation | None = None) -> ShapeChange:
        """The change from `source` to a shape that `target()` returned, moments by this operator's policy."""
        change = self.rule(source, target, correlation)
        return change.with_moments_reset() if self.moments == "reset" else change

    def rule(self, source: BertConfig, target: BertConfig, correlation: Correlation | None) -> ShapeChange:
        raise NotImplementedError
