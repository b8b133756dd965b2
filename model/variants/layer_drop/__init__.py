"""Progressive layer dropping: as training proceeds, more layers are skipped, upper ones more often.

Zhang and He 2020 (arXiv 2010.13369): theta(t) = (1 - keep) exp(-gamma t) + keep after t optimizer steps, and layer i
of L (from 1) is kept with probability 1 - i / L (1 - theta).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from model.fields import Flag, Settings
from model.shape import Shape


class LayerDrop(Settings):
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability of running the top layer, late in training. Lower saves more time and disturbs training more."""
    gamma: Annotated[float, Field(gt=0)] = 1e-3
    """How fast the probability falls to `keep`, per step. The paper uses 100 / steps of the run."""

    def theta(self, step: int) -> float:
        return (1 - self.keep) * math.exp(-self.gamma * step) + self.keep

    @staticmethod
    def keep_probability(layer: int, layers: int, theta: float) -> float:
        """layer counts from 0."""
        return 1 - (layer + 1) / layers * (1 - theta)


class WithLayerDrop(Shape):
    layer_drop: Annotated[LayerDrop | None, Flag.FREE, Flag.PLAIN_AT_EXPORT, Flag.NOT_IN_TARGET] = None
    """Progressive layer dropping (PLD): `{keep: 0.5, gamma: 0.001}`. Pre-LN only."""

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.layer_drop.layers:LayerDropParts",) if self.layer_drop else ()
        return super().part_names + own

    @property
    def attends_over_runs(self) -> bool:
        return super().attends_over_runs and not self.layer_drop  # a dropped layer sees a batch of no rows

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.layer_drop and self.norm != "pre":
            yield "layer_drop needs norm pre: with norm post a skipped layer changes the scale of the next one's input"
        reasons = {
            "light_layers": "a layer whose attention map others reuse could be skipped",
            "pool_window": "without the first layer nothing is pooled",
        }
        yield from self.clashes("layer_drop", reasons)

    def refused_with(self) -> Mapping[str, str]:
        reason = "computes layers a second time, when layer_drop would draw other layers; leave one out"
        own = {"recompute": f"recompute true {reason}"}
        return {**super().refused_with(), **(own if self.layer_drop else {})}

    def run_share(self, layer: int) -> float:
        """At the end of the schedule."""
        share = super().run_share(layer)
        if not self.layer_drop:
            return share
        return share * self.layer_drop.keep_probability(layer, self.layers, self.layer_drop.keep)
