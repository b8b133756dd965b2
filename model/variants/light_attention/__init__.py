"""Light attention: a layer without query and key, which reuses the attention map of the layer below.

Gu et al. 2021 (CompoundGrow, arXiv 2010.12562) compare it as a cheap form of a layer.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from model.fields import ShareOf
from model.shape import Shape


class WithLightAttention(Shape):
    light_layers: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        ShareOf("layers", spread=True),
    ] = ()
    """Layers, counted from 0, without query and key, which reuse the attention map of the layer below (CompoundGrow).
    A share spreads that many evenly over the layers."""

    def is_light(self, block: int) -> bool:
        """Whether the block takes its attention map from the layer below."""
        return self.layers_of(block)[0] in self.light_layers

    @classmethod
    def canonical(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = super().canonical(values)
        if isinstance(values.get("light_layers"), list | tuple):
            values["light_layers"] = tuple(sorted(set(values["light_layers"])))
        return values

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.light_attention.layers:LightAttentionParts",) if self.light_layers else ()
        return super().part_names + own

    @property
    def attends_over_runs(self) -> bool:
        return super().attends_over_runs and not self.light_layers  # they need the map itself

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        yield from self.idle_without_layers("light_layers")
        for layer in self.light_layers:
            if layer >= self.layers:
                yield f"light_layers names layer {layer}, but the last of {self.layers} layers is {self.layers - 1}"
            elif self.layer_width("heads", layer) != self.layer_width("heads", layer - 1):
                yield (
                    f"light layer {layer} has {self.layer_width('heads', layer)} heads and the layer below "
                    f"{self.layer_width('heads', layer - 1)}, but it reuses the attention map; give both the same"
                )

    def layer_kind(self, layer: int) -> dict[str, Any]:
        return super().layer_kind(layer) | {"light_layers": layer in self.light_layers}

    def projections(self, block: int) -> tuple[str, ...]:
        projections = super().projections(block)
        if not self.is_light(block):
            return projections
        return tuple(projection for projection in projections if projection not in ("query", "key"))

    def mixing_flops(self, block: int, queries: float, keys: float) -> float:
        flops = super().mixing_flops(block, queries, keys)
        return flops - self.map_flops(block, queries, keys) if self.is_light(block) else flops

    def mixing_elements(self, block: int, keys: float, has_map: bool) -> float:
        """The map is kept once, by the layer that computes it."""
        elements = super().mixing_elements(block, keys, has_map)
        return elements - has_map * self.block_heads(block) * keys if self.is_light(block) else elements
