"""New units that fade in: a mask on them rises linearly from 0 (the model without them) to 1 (as if always there).

Yao et al. 2024 (MSG, arXiv 2305.02869).
"""

from collections.abc import Iterator

from model.fields import Count, Index, Settings
from model.shape import Shape


class MaskedUnits(Settings):
    """How many units of each axis are old; they come first. An axis that is omitted has no new units. The operator
    `mask_growth` sets all of this."""

    hidden: Count | None = None
    """Old hidden units; those after them fade in. `mask_growth` sets this and the next four keys."""
    heads: Count | tuple[Count, ...] | None = None
    """Old heads per layer: one number, or a list with one for each layer."""
    ffn: Count | tuple[Count, ...] | None = None
    """Old FFN units per layer: one number, or a list with one for each layer."""
    layers: tuple[Index, ...] = ()
    """New layers, counted from 0."""
    steps: Count = 5000
    """Optimizer steps in which the mask rises from 0 to 1."""


class WithMaskedUnits(Shape):
    masked: MaskedUnits | None = None
    """New units that fade in (MSG), given by how many are old: `{hidden: 512, ffn: 2048, steps: 5000}`."""

    def old_width(self, axis: str, block: int) -> int | None:
        """Of a block's heads or FFN units, how many were there before those that fade in; None: none fade in."""
        old = getattr(self.masked, axis, None)
        return old[self.layers_of(block)[0]] if isinstance(old, tuple) else old

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.masked_units.layers:MaskedUnitsParts",) if self.masked else ()
        return super().part_names + own

    @property
    def unfinished(self) -> str | None:
        return "new units still fade in (masked)" if self.masked else super().unfinished

    def restarts_fading(self, before: Shape) -> bool:
        return self.masked != getattr(before, "masked", None) or super().restarts_fading(before)

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        yield from self.idle_without_layers("masked")
        if masked := self.masked:
            if not (masked.hidden or masked.heads or masked.ffn or masked.layers):
                yield "masked names no axis with new units; give hidden, heads, ffn or layers, or leave it out"
            if any(layer >= self.layers for layer in masked.layers) or len(set(masked.layers)) == self.layers:
                yield (
                    f"masked.layers {list(masked.layers)} has to name some, not all, of the layers 0 to "
                    f"{self.layers - 1}"
                )
            if masked.hidden and masked.hidden > self.hidden:
                yield f"masked.hidden {masked.hidden} counts the old units and cannot be above hidden {self.hidden}"
            yield from self._widths(masked)
        reasons = {
            "layer_drop": "both decide how much of a layer counts",
            "light_layers": "a map cannot come from a layer that fades in",
            "pool_window": "unpool the input before layers fade in",
        }
        yield from self.clashes("masked.layers", reasons)

    def _widths(self, masked: MaskedUnits) -> Iterator[str]:
        for axis in ("heads", "ffn"):
            old = getattr(masked, axis)
            if isinstance(old, tuple) and len(old) != self.layers:
                yield f"masked.{axis} lists {len(old)} values for {self.layers} layers; give one each, or one number"
                return
            for layer in range(self.layers):
                width = self.layer_width(axis, layer)
                if old and (count := old[layer] if isinstance(old, tuple) else old) > width:
                    yield f"masked.{axis} {count} counts the old units and cannot be above layer {layer}'s {width}"
