"""Pooled input (CompoundGrow): the context is pooled before the first layer, the masked tokens are not.

Gu et al. 2021 (arXiv 2010.12562). A row is split into its *context*, the tokens that are not masked, and its *targets*,
the masked ones. Each run of `window` context tokens becomes one slot, the mean of its embeddings; [CLS] and every
target have their own slots. The first layer is asymmetric: its queries are the slots, its keys and values all tokens.
From the second layer on the sequence has 1 + ceil((context - 1) / window) + targets slots.
"""

import math
from collections.abc import Iterator, Mapping

from model.fields import Count
from model.shape import Shape


class WithPooledInput(Shape):
    pool_window: Count = 1
    """Pool this many context tokens into one before the first layer; masked tokens and [CLS] are not pooled. 1 turns
    pooling off; CompoundGrow uses 2 in its early stages."""

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.pooled_input.layers:PooledInputParts",) if self.pool_window > 1 else ()
        return super().part_names + own

    @property
    def attends_over_runs(self) -> bool:
        return super().attends_over_runs and self.pool_window == 1

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        yield from self.idle_without_layers("pool_window")
        shape = "the attention map of the first layer has another shape"
        yield from self.clashes("pool_window", {"light_layers": shape})
        if self.pool_window > 1 and self.positions == "rotary":
            yield "pool_window and positions rotary do not go together: a pooled slot has many positions; leave one out"

    def refused_with(self) -> Mapping[str, str]:
        reason = (
            f"layout.sequence_parallel needs rows of a known length, but with pool_window {self.pool_window} "
            "the number of slots differs from batch to batch; leave one of them out"
        )
        causal = f"objective clm predicts each token, and pool_window {self.pool_window} pools them"
        own = {"sequence_parallel": reason, "causal": f"{causal}; leave one of them out"}
        return {**super().refused_with(), **(own if self.pool_window > 1 else {})}

    def num_tokens(self, layer: int, sequence: int, num_predictions: float) -> tuple[float, float]:
        if self.pool_window == 1:
            return super().num_tokens(layer, sequence, num_predictions)
        slots = 1 + math.ceil((sequence - num_predictions - 1) / self.pool_window) + num_predictions
        return slots, sequence if layer == 0 else slots
