"""Heads at inner layers: one objective reads the states of a layer below the last (hierarchical multitask pretraining).

Aksoy et al. 2020 (arXiv 2011.04451): the sentence objective and the masked-LM objective are solved at different layers.
Which ones is not known here. Their BERT is post-LN, whose states are normalised in every layer. With pre-LN the head
reads the inner states through the final norm, as it does on top: between the layers they have no norm of their own.

Layers are counted from 1: a head at layer 8 reads what the eighth puts out. No parameter depends on it. One of the two
heads stays on the last layer, or nothing would train the layers above both. In a deeper model a head stays with the
layer that it read, where this can be told (`growth/operators/depth.py`).
"""

from collections.abc import Callable, Iterator
from typing import Annotated

from model.fields import Count, Flag, ShareOf
from model.variants.frozen_layers import WithFrozenLayers

HEADS = ("sentence_layer", "mlm_layer")


class WithInnerHeads(WithFrozenLayers):
    sentence_layer: Annotated[
        Count | None,
        ShareOf("layers"),
        Flag.FREE,
        Flag.PLAIN_AT_EXPORT,
        Flag.NOT_IN_TARGET,
    ] = None
    """The layer, counted from 1, whose states the sentence head reads (hierarchical multitask). Defaults to the last.
    A lower one leaves the layers above it to the masked words; an export then leaves the head out."""
    mlm_layer: Annotated[Count | None, ShareOf("layers"), Flag.FREE, Flag.NOT_IN_TARGET] = None
    """The same for masked words: the layers above it are trained by the sentence objective alone. Such a model has no
    counterpart in transformers; put the head back on the last layer before the end (`mlm_layer: null`)."""

    @property
    def words_from(self) -> int:
        """The layer that masked words are predicted from, counted from 1."""
        return self.mlm_layer or self.layers

    @property
    def sentences_from(self) -> int:
        """The same for sentence pairs."""
        return self.sentence_layer or self.layers

    def uses(self, key: str) -> bool:
        """On the last layer a head is where a plain BERT has it."""
        return super().uses(key) and not (key in HEADS and getattr(self, key) == self.layers)

    def moved_heads(self, layer_for: Callable[[int], int]) -> dict[str, int | None]:
        """Both fields in a model of another depth, given which of its layers is for each of this one."""
        old = {field: getattr(self, field) for field in HEADS}
        return {field: layer and layer_for(layer) for field, layer in old.items()}

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        reasons = {
            "light_layers": "a light layer is computed together with the one below",
            "sub_models": "a step trains only the topmost of the layers that it runs",
            "token_dropping": "the layers in the middle compute only some of the tokens",
        }
        for field in HEADS:
            layer = getattr(self, field)
            if (layer or 0) > self.layers:
                yield f"{field} {layer}: the model has {self.layers} layers; choose one of them, counted from 1"
            if self.uses(field) and layer <= self.frozen_layers:
                yield (
                    f"{field} {layer} is one of the {self.frozen_layers} frozen layers, so its objective would train "
                    "the head alone; choose one above them"
                )
            yield from self.clashes(field, reasons)
        if self.uses("sentence_layer") and not self.sentence_head:
            yield (
                f"sentence_layer {self.sentence_layer} is for the sentence head, which this model has not; set "
                "data.sentence_pairs, or leave it out"
            )
        if self.uses("mlm_layer") and (self.uses("sentence_layer") or not self.sentence_head):
            yield (
                f"mlm_layer {self.mlm_layer} leaves the layers above it without an objective: the sentence head has to "
                "be there, and on the last one; leave mlm_layer out, or set data.sentence_pairs and no sentence_layer"
            )
