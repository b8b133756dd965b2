"""Random sub-models: a step runs only some of the lowest layers, and trains the topmost of these.

Chen et al. 2022 (bert2BERT, arXiv 2110.07143), the first stage of its two-stage training: with k = `sub_models` the
lowest k, 2k, 3k, ... layers are drawn evenly, and the top k of them are updated, and the heads.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated

from model.fields import Count, Flag, ShareOf
from model.shape import Shape


class WithSubModels(Shape):
    sub_models: Annotated[Count | None, ShareOf("layers"), Flag.FREE, Flag.PLAIN_AT_EXPORT, Flag.NOT_IN_TARGET] = None
    """Train random sub-models with this k: each step draws a depth of k, 2k, 3k, ... layers, runs only that many of the
    lowest, and trains the top k of these (bert2BERT: 3). By default every layer runs and is trained."""

    @cached_property
    def num_sub_models(self) -> int:
        """How many depths there are to draw from."""
        return self.layers // self.sub_models if self.sub_models else 1

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.sub_models.layers:SubModelParts",) if self.sub_models else ()
        return super().part_names + own

    @property
    def attends_over_runs(self) -> bool:
        return super().attends_over_runs and not self.sub_models  # a layer that is not trained sees a batch of no rows

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        yield from self.idle_without_layers("sub_models")
        if self.sub_models and self.layers % self.sub_models:
            yield f"sub_models {self.sub_models} does not divide the {self.layers} layers; choose a divisor"
        others = ("frozen_layers", "layer_drop", "light_layers", "masked.layers", "pool_window")
        yield from self.clashes("sub_models", dict.fromkeys(others, "both decide how a layer runs"))

    def run_share(self, layer: int) -> float:
        share = super().run_share(layer)
        return share * (1 - layer // self.sub_models / self.num_sub_models) if self.sub_models else share

    def trained_share(self, layer: int) -> float:
        """A layer is trained at exactly one of the depths."""
        share = super().trained_share(layer)
        return share / (self.num_sub_models * self.run_share(layer)) if self.sub_models else share
