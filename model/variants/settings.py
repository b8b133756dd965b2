"""Settings of the variants that take more than one number."""

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Strength = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __str__(self) -> str:
        """What differs from the defaults, in the words of a recipe."""
        changed = self.model_dump(exclude_defaults=True)
        return f"({', '.join(f'{name} {value}' for name, value in changed.items())})" if changed else "on"


class LayerDrop(Settings):
    """Progressive layer dropping: more and more layers are skipped, the upper ones more often.

    Zhang and He 2020 (arXiv 2010.13369): theta(t) = (1 - keep) exp(-gamma t) + keep after t optimizer steps, and layer
    i of L (from 1) is kept with probability 1 - i / L (1 - theta).
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How often the top layer is kept in the end."""
    gamma: Annotated[float, Field(gt=0)] = 1e-3
    """How fast: the paper takes 100 / steps of the run."""

    def theta(self, step: int) -> float:
        return (1 - self.keep) * math.exp(-self.gamma * step) + self.keep

    @staticmethod
    def keep_probability(layer: int, layers: int, theta: float) -> float:
        """layer counts from 0."""
        return 1 - (layer + 1) / layers * (1 - theta)


class Slimming(Settings):
    """A learned coefficient on every head and FFN unit, pulled to 0 by an L1 term in the loss (EarlyBERT).

    Chen et al. 2021 (arXiv 2101.00063): units whose coefficient is small are pruned.
    """

    heads: Strength = 1e-4
    """Weight of the sum of the heads' absolute coefficients in the loss."""
    ffn: Strength = 1e-4
    """The same for FFN units."""


class MaskedUnits(Settings):
    """New units that fade in: a mask on them rises linearly from 0 (the model without them) to 1 (as if always there).

    Yao et al. 2024 (MSG, arXiv 2305.02869). Given are the units that were there before, the first of their axis;
    an axis left out has no new units.
    """

    hidden: Count | None = None
    heads: Count | tuple[Count, ...] | None = None
    ffn: Count | tuple[Count, ...] | None = None
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """New layers, by number."""
    steps: Count = 5000
    """Optimizer steps from 0 to 1."""
