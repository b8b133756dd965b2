"""Local attention: most layers see a window around each token, and every n-th the whole row.

Beltagy et al. 2020 (Longformer, arXiv 2004.05150); layers in turn as in Warner et al. 2024 (ModernBERT, arXiv
2412.13663). A token of a local layer sees itself and window / 2 tokens on each side, of its own segment. Layers are
counted from 0, and layer i is global if `global_every` divides it. So a model that grows deeper is local and global by
the new numbers of its layers, whichever layers these were copied from.
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from model.fields import Count, Flag, Settings
from model.shape import Shape


class LocalAttention(Settings):
    window: Count
    """Tokens that a token of a local layer sees around it, half of them on each side. ModernBERT: 128."""
    global_every: Count = 3
    """Every n-th layer, from the first on, sees the whole row."""
    theta: Annotated[float, Field(gt=1)] | None = None
    """Base of the rotary angles in local layers. Defaults to `rotary_theta`; ModernBERT uses 10,000."""

    @property
    def reach(self) -> int:
        """Tokens seen on each side."""
        return self.window // 2

    @property
    def block_size(self) -> int:
        """Queries that are computed together, over the keys of this block and of both its neighbours."""
        return max(self.reach, 1)


class WithLocalAttention(Shape):
    local_attention: Annotated[LocalAttention | None, Flag.FREE] = None
    """Local windows, with a global layer every n-th: `{window: 128, global_every: 3}`. Saves time on long rows. No
    parameter depends on it: a stage may change it."""

    def is_local(self, layer: int) -> bool:
        return self.local_attention is not None and layer % self.local_attention.global_every > 0

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.local_attention.layers:LocalAttentionParts",) if self.local_attention else ()
        return super().part_names + own

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        reasons = {
            "attention": "a kernel sums over the whole row",
            "light_layers": "a map over a window is none over the whole row",
            "pool_window": "pooled slots have no neighbours at fixed distances",
        }
        yield from self.clashes("local_attention", reasons)
        if self.local_attention and self.local_attention.theta and self.positions != "rotary":
            yield (
                f"local_attention.theta {self.local_attention.theta} is for rotary positions, and they are "
                f"{self.positions}; leave it out"
            )

    def seen_keys(self, layer: int, keys: float) -> float:
        """The mean over a row: at its ends a window is cut."""
        if not self.is_local(layer):
            return super().seen_keys(layer, keys)
        assert self.local_attention is not None
        reach = min(self.local_attention.reach, keys - 1)
        return 2 * reach + 1 - reach * (reach + 1) / keys

    def mapped_keys(self, layer: int, keys: float) -> float:
        if not self.is_local(layer):
            return super().mapped_keys(layer, keys)
        assert self.local_attention is not None
        block_keys = 3 * self.local_attention.block_size
        if keys <= block_keys:
            return keys
        # Keys and values are kept once for each of the three blocks of queries that look at them.
        return block_keys + 6 * self.head_dim / (3 if self.attention_dropout else 1)
