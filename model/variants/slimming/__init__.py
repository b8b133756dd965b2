"""Slimming coefficients (EarlyBERT): a learned factor on every head and every FFN unit, with an L1 penalty in the loss.

Chen et al. 2021 (arXiv 2101.00063): units whose coefficient is small are pruned.
"""

from collections.abc import Iterator
from typing import Annotated

from model.fields import Flag, Settings, Strength
from model.parameter_spec import Axis, ParameterSpec
from model.shape import Shape


class Slimming(Settings):
    heads: Strength = 1e-4
    """Weight in the loss of the sum of the heads' absolute coefficients. Raise it if too few coefficients become
    small."""
    ffn: Strength = 1e-4
    """The same for the coefficients of FFN units."""


class WithSlimming(Shape):
    slimming: Annotated[Slimming | None, Flag.NOT_IN_TARGET] = None
    """Learned coefficients on heads and FFN units with an L1 penalty (EarlyBERT): `{heads: 0.0001, ffn: 0.0001}`."""

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.slimming.layers:SlimmingParts",) if self.slimming else ()
        return super().part_names + own

    def added_parameters(self, module: str, block: int | None) -> Iterator[ParameterSpec]:
        yield from super().added_parameters(module, block)
        if self.slimming and block is not None:
            widths = {"attention": ("heads", self.block_heads(block)), "feedforward": ("ffn", self.block_ffn(block))}
            units = Axis(*widths[module], "produced")
            name = f"blocks.{block}.{module}.coefficients"
            yield ParameterSpec(name, (units,), 0, decay=False, init="ones", block=block)
