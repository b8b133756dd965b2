"""Unsharing: layers that shared a block get their own blocks, which start equal.

Yang et al. 2021 (SWE, arXiv 2110.03848), algorithm 1; also by groups (SWE-M) or A x B units. The function is preserved
bitwise. Tier 3 for the moments: the shared block's gradient was the mean over its n uses, g = (g_1 + ... + g_n) / n, so
with gradients of equal size and mean pairwise correlation rho

    E[g^2] = E[g_i^2] (1 + (n - 1) rho) / n       (and the same with k where k layers still share a new block)

With rho measured on a probe batch, exp_avg_sq is multiplied by n / (1 + (n - 1) rho) and exp_avg by its square root:
each layer continues with the update that the shared block was about to make, and its gradients have the size that the
moments expect. Without the factor, updates grow by up to sqrt(n) as those gradients arrive. With the factor on
exp_avg_sq alone, which leaves exp_avg an unbiased estimate, updates start too small by as much. Muon's matrices keep
exp_avg as it is: the size of their updates does not depend on it.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from growth.change import ShapeChange, map_blocks, source_name
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.parameters import ParameterSpec


class Unshare(Operator):
    name: ClassVar[str] = "unshare"
    changes: ClassVar[tuple[str, ...]] = ("sharing",)

    correlation: Annotated[float, Field(ge=0, le=1)] | None = None
    """Mean correlation between the gradients of the uses of a block. By default it is measured on a probe batch; give a
    number if that is not possible."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if source.sharing is None:
            raise UserError("grow unshare: no layers share a block, so there is nothing to unshare; leave it out")
        target = source.replace(sharing=wanted.get("sharing"))
        for block in range(target.num_blocks):
            sources = sorted({source.block_of(layer) for layer in target.layers_of(block)})
            if len(sources) > 1:
                raise UserError(
                    f"grow unshare: sharing {target.sharing} puts layers {target.layers_of(block)} of blocks {sources} "
                    "into one block; ask for a pattern that splits the blocks there are, or use share"
                )
        if target.num_blocks == source.num_blocks:
            raise UserError(f"grow unshare: sharing {target.sharing} splits no block; ask for more blocks")
        return target

    def gives_each_layer_its_own_block(self, wanted: PartialShape) -> bool:
        return "sharing" not in wanted

    def is_done_by_splits(self, source: BertConfig) -> bool:
        return source.sharing is None

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        source_block_of = [source.block_of(target.layers_of(block)[0]) for block in range(target.num_blocks)]
        copied = map_blocks(source, target, source_block_of)
        if self.moments != "transform":
            return copied
        measured = inputs.correlation(source, source, inputs.fetch) if self.correlation is None else {}

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            record = copied.record(spec.name, fetch)
            if spec.block is None or record.exp_avg_sq is None:
                return record
            old_block = source_block_of[spec.block]
            num_uses, num_uses_left = len(source.layers_of(old_block)), len(target.layers_of(spec.block))
            if num_uses == num_uses_left:
                return record
            rho = measured[source_name(spec, old_block)] if self.correlation is None else self.correlation
            factor = mean_square(num_uses_left, rho) / mean_square(num_uses, rho)
            return replace(record, exp_avg=record.exp_avg * factor**0.5, exp_avg_sq=record.exp_avg_sq * factor)

        return ShapeChange(source, target, rule)


def mean_square(num_uses: int, rho: float) -> float:
    """E[g^2] of the mean of n gradients with unit mean square and mean correlation rho."""
    return (1 + (num_uses - 1) * rho) / num_uses
