"""A stage's `align`: what the recipe may say of it, and how it lies in a run."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from model.config import BertConfig
from model.errors import UserError
from pretrain.settings.values import Amount, Number, PositiveAmount, Section, Share


class Align(Section):
    """Early-layer alignment with a frozen teacher (LET, arXiv 2602.05393; see `model.alignment`).

    The paper does not say which layer it aligns, nor when it stops: the defaults of `layer` and `steps` are our choice.
    """

    teacher: str
    """Align an inner layer with the last layer of this frozen model: a name that an earlier stage keeps, a run of
    Espalier, one of its checkpoints, or a folder of Hugging Face transformers (`hub:OWNER/NAME` for the Hub). It needs
    the same vocabulary."""
    layer: PositiveAmount = Share(25)
    """The layer of the model in training that is aligned, counted from 1, or as a share of the stage's layers."""
    weight: Annotated[Number, Field(gt=0)] = 0.1
    """Weight of the mean cosine in the loss when the stage begins. It falls evenly to 0, where the teacher is let
    go."""
    steps: PositiveAmount | None = None
    """Steps until the weight is 0. If they are more than the stage has, later stages go on with the same teacher.
    Defaults to half of the stage."""


@dataclass(frozen=True)
class StageAlignment:
    """The alignment that a stage begins, or goes on with."""

    asked: Align
    start: float
    """Ticks: the weight falls from here to `end`."""
    end: float
    config: BertConfig | None = None
    """The teacher's shape. None: of a folder that nobody has looked into yet."""

    @property
    def teacher(self) -> str:
        return self.asked.teacher

    def weight_at(self, now: float) -> float:
        return self.asked.weight * max(0.0, 1 - (now - self.start) / (self.end - self.start))

    def layer_of(self, config: BertConfig) -> int:
        """The aligned layer of a model in training, counted from 1. Halves are rounded up."""
        layer = self.asked.layer
        if isinstance(layer, Share):
            return max(1, math.floor(layer.percent / 100 * config.layers + 0.5))
        return layer

    def moved(self, ticks: float) -> "StageAlignment":
        return replace(self, start=self.start + ticks, end=self.end + ticks)


def alignment_of(
    asked: Align | None,
    before: StageAlignment | None,
    span: tuple[float, float],
    in_ticks: Callable[[Amount, str], float],
) -> StageAlignment | None:
    """That of a stage of the given first tick and end: its own, or what is left of that of the stage before."""
    start, end = span
    if asked is None:
        return before if before is not None and before.end > start else None
    length = math.ceil((end - start) / 2) if asked.steps is None else in_ticks(asked.steps, "align.steps")
    if not length:
        raise UserError(f"align.steps {asked.steps} of this run is no step at all; give more")
    return StageAlignment(asked, start, start + length)
