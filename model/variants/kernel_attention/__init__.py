"""Kernel attention: phi(q) (phi(k)^T v) / (phi(q) sum phi(k)), linear in the length of the sequence.

Katharopoulos et al. 2020 (arXiv 2006.16236, phi = elu + 1), Choromanski et al. 2021 (Performer, arXiv 2009.14794: relu,
and FAVOR+, whose positive random features approximate the softmax). Attention dropout must be 0: there are no
probabilities to drop.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

from model.fields import Count
from model.shape import Shape


class WithKernelAttention(Shape):
    attention: Literal["softmax", "elu", "relu", "favor"] = "softmax"
    """`softmax`, or a kernel whose cost is linear in the sequence length: `elu` (elu + 1), `relu`, or `favor` (the
    random features of FAVOR+). A kernel saves time on long rows only."""
    kernel_features: Count | None = None
    """Random features per head for `favor`. Defaults to twice head_dim. More approximate the softmax better and cost
    more."""

    @property
    def has_kernel(self) -> bool:
        return self.attention != "softmax"

    @cached_property
    def num_kernel_features(self) -> int:
        """Features of each head in kernel attention."""
        return (self.kernel_features or 2 * self.head_dim) if self.attention == "favor" else self.head_dim

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.kernel_attention.layers:KernelAttentionParts",) if self.has_kernel else ()
        return super().part_names + own

    @property
    def attends_over_runs(self) -> bool:
        return super().attends_over_runs and not self.has_kernel

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.has_kernel and self.attention_dropout:
            yield (
                f"attention {self.attention} has no probabilities to drop out; "
                f"set attention_dropout 0 (it is {self.attention_dropout})"
            )
        if self.kernel_features and self.attention != "favor":
            yield f"kernel_features {self.kernel_features} is for attention favor, not {self.attention}; leave it out"
        reasons = {
            "light_layers": "they reuse an attention map, and a kernel has none",
            "pool_window": "a kernel needs as many queries as keys, and the first layer pools its queries",
        }
        yield from self.clashes("attention", reasons)

    def refused_with(self) -> Mapping[str, str]:
        reason = f"objective clm needs attention softmax: attention {self.attention} sums over the whole row"
        own = {"causal": f"{reason}; leave one of them out"}
        return {**super().refused_with(), **(own if self.has_kernel else {})}

    def mixing_flops(self, block: int, queries: float, keys: float) -> float:
        """Keys into the memory, queries out of it, the queries' normalisers, and the random projections of both."""
        if not self.has_kernel:
            return super().mixing_flops(block, queries, keys)
        heads, features = self.block_heads(block), self.num_kernel_features
        kernel = 2 * queries * heads * features * (2 * self.head_dim + 1)
        return kernel + self.constant_product_flops(block, queries)

    def constant_product_flops(self, block: int, queries: float) -> float:
        """The random projections of queries and keys in one layer (FAVOR+)."""
        if self.attention != "favor":
            return super().constant_product_flops(block, queries)
        return round(4 * queries * self.block_heads(block) * self.head_dim * self.num_kernel_features)

    def mixing_elements(self, block: int, keys: float, has_map: bool) -> float:
        """Features of query and key, the sums over the memory and their normalisers, and a part of the memory."""
        if not self.has_kernel:
            return super().mixing_elements(block, keys, has_map)
        features, sums = self.num_kernel_features, self.head_dim if self.attention == "favor" else 2 * self.head_dim
        kernel = 2 * features + sums + 2 + features * self.head_dim / keys
        return super().mixing_elements(block, keys, False) + self.block_heads(block) * kernel
