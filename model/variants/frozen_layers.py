"""Frozen layers: the lowest layers and the embeddings are not trained (MSLT).

Yang et al. 2020 (arXiv 2011.13635), section 3. The decoder is the word table, so it is frozen with the embeddings; the
rest of the heads is trained.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from model.fields import Flag, Index, ShareOf
from model.parameter_spec import ParameterSpec
from model.shape import Shape


class WithFrozenLayers(Shape):
    frozen_layers: Annotated[Index, ShareOf("layers"), Flag.FREE, Flag.PLAIN_AT_EXPORT, Flag.NOT_IN_TARGET] = 0
    """Do not train the lowest N layers and the embeddings (MSLT). The decoder is the word table, so it is frozen too;
    the rest of the heads is trained. 0 trains everything."""

    def is_frozen(self, block: int) -> bool:
        return self.layers_of(block)[0] < self.frozen_layers

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.frozen_layers and self.frozen_layers >= self.layers:
            yield f"frozen_layers {self.frozen_layers} leaves none of {self.layers} layers to train; freeze fewer"

    def layer_kind(self, layer: int) -> dict[str, Any]:
        return super().layer_kind(layer) | {"frozen_layers": layer < self.frozen_layers}

    def is_trained(self, spec: ParameterSpec) -> bool:
        in_frozen_block = spec.block is not None and self.is_frozen(spec.block)
        in_frozen_embeddings = self.frozen_layers > 0 and spec.name.startswith("embeddings.")
        return super().is_trained(spec) and not in_frozen_block and not in_frozen_embeddings
