"""What the variants of a model compute: the parts they choose, wrap or add.

A variant has a subclass of `Parts` in its `layers.py` and names it in its declaration. `BertForPreTraining` asks those
of the active variants; a plain BERT has none. *Choosing* a part (attention, mask) is for one variant alone; *wrapping*
layers and adding to the model is for any number of them, each on what the others have made.
"""

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TypeVar

from torch import Tensor, nn

from model.attention import Attention, Mask
from model.batch import Batch
from model.block import Block, Layer
from model.config import BertConfig
from model.parallel.tensor import TensorParallel


class Parts:
    """The answers of a variant that changes nothing. A subclass overrides what it changes."""

    def __init__(self, config: BertConfig):
        self.config = config

    def arrange(self, batch: Batch) -> Batch:
        """The batch in the form that the model reads. Leaves one that is in this form as it is."""
        return batch

    def make_attention(self, block: int, tp: TensorParallel) -> Attention | None:
        """The attention of a block; None: it is not this variant's to choose."""
        return None

    def make_mask(self) -> Callable[[Batch], Mask] | None:
        """The function from a batch to the mask that the layers take; None: it is not this variant's to choose."""
        return None

    def mask_layers(self, batch: Batch, mask: Mask) -> Mask:
        """What the layers take for `mask`, which holds for whole rows."""
        return mask

    def wrap(self, layers: Sequence[Layer], blocks: Sequence[Block]) -> Sequence[Layer]:
        """What the encoder runs, from the bottom up. blocks: that of each layer."""
        return layers

    def extend(self, model: nn.Module, tp: TensorParallel) -> None:
        """Adds to the finished model: parameters (see `Shape.added_parameters`), buffers, hooks."""

    def begin_step(self, step: int, steps_masked: int, seed: int) -> None:
        """The progress of training: see `BertForPreTraining.begin_step`."""

    def see_losses(self, ids: Tensor, losses: Tensor) -> None:
        """The loss of each predicted token of the micro-batch: ids [M] of the true words, losses [M]."""

    def loss_term(self, model: nn.Module, tp: TensorParallel) -> Tensor | None:
        """What a step adds to the mean loss of a masked token. Scalar."""
        return None


def parts_of(config: BertConfig) -> list[Parts]:
    """Those of the active variants. Imports their layers."""
    found = []
    for place in config.part_names:
        module, _, name = place.partition(":")
        found.append(getattr(import_module(module), name)(config))
    return found


def arrange_for(config: BertConfig) -> Callable[[Batch], Batch]:
    """The function that brings a batch into the form which a model of this shape reads."""
    active = parts_of(config)

    def arrange(batch: Batch) -> Batch:
        for parts in active:
            batch = parts.arrange(batch)
        return batch

    return arrange


Choice = TypeVar("Choice")


def only_one(choices: Iterable[Choice | None]) -> Choice | None:
    """What the one variant chose that had a choice to make; None: there is none."""
    made = [choice for choice in choices if choice is not None]
    assert len(made) < 2, f"two variants choose the same part: {made}"
    return made[0] if made else None
