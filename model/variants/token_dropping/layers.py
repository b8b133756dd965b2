"""The layers of a model that drops tokens: all tokens, kept ones that look at all, kept ones alone, and all again.

Which tokens a micro-batch keeps is decided before its first layer, and with it what each kind of layer sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from model.attention import Mask, TwoStreamAttention
from model.attention_kernels import PackedRows
from model.batch import Batch
from model.block import Block, Layer
from model.parallel.tensor import TensorParallel
from model.rotary import RotaryMask
from model.variants.parts import Parts
from model.variants.token_dropping.losses import TokenLosses


@dataclass(frozen=True)
class DroppingMasks:
    """What the layers take in training: k of the S tokens of a row are kept. (In evaluation: the mask alone.)"""

    places: Tensor  # [B, k] int64, ascending
    whole: Mask  # of all tokens
    narrowing: Mask  # kept queries, all keys: bool [B, 1, k, S] or None
    kept: Mask  # of the kept tokens

    def keep(self, x: Tensor) -> Tensor:
        """[B, S, H] -> [B, k, H]"""
        return x.gather(1, self._index(x))

    def put_back(self, kept: Tensor, whole: Tensor) -> Tensor:
        """[B, k, H] in the place of what was there in [B, S, H]."""
        return whole.scatter(1, self._index(whole), kept)

    def _index(self, x: Tensor) -> Tensor:
        return self.places.unsqueeze(-1).expand(-1, -1, x.shape[-1])


def dropping_masks(batch: Batch, mask: Mask, places: Tensor) -> DroppingMasks:
    """mask: that of all tokens. Tokens see only their own segment, whoever is kept."""
    if isinstance(mask, RotaryMask):
        plain, turned = dropping_masks(batch, mask.mask, places), mask.rotation.at(places)
        crossing = RotaryMask(plain.narrowing, mask.rotation, of_queries=turned)
        return DroppingMasks(places, mask, crossing, RotaryMask(plain.kept, turned))
    if batch.segments is None:
        return DroppingMasks(places, mask, None, None)
    segments = batch.segments.gather(1, places)
    queries = segments[:, None, :, None]
    narrowing = queries == batch.segments[:, None, None, :]
    if isinstance(mask, PackedRows):
        runs = mask.runs.among(places, batch.ids.shape[1])
        return DroppingMasks(places, mask, narrowing, replace(mask, runs=runs))
    return DroppingMasks(places, mask, narrowing, queries == segments[:, None, None, :])


class Parted(NamedTuple):
    """What goes from the narrowing layer to the last one."""

    kept: Tensor  # [B, k, H]
    whole: Tensor  # [B, S, H], as the narrowing layer found them


class WholeLayer:
    """A layer of all tokens. x [B, S, H] -> [B, S, H]."""

    def __init__(self, block: Block):
        self.block = self.whole_block = block

    def __call__(self, x: Any, masks: Mask) -> Any:
        return self.block(x, masks.whole if isinstance(masks, DroppingMasks) else masks)


class NarrowingLayer:
    """The layer in which the kept tokens look at all of them. x [B, S, H] -> `Parted`."""

    def __init__(self, block: Block):
        self.block = block

    def __call__(self, x: Any, masks: Mask) -> Any:
        block = self.block
        if not isinstance(masks, DroppingMasks):
            return block(x, masks)
        source = block.attention.norm(x) if block.pre_norm else x
        kept = block.residual(masks.keep(x), block.attention, masks.narrowing, source)
        return Parted(block.residual(kept, block.feedforward), x)


class KeptLayer:
    """A layer of the kept tokens. `Parted` -> `Parted`."""

    def __init__(self, block: Block):
        self.block = self.whole_block = block

    def __call__(self, x: Any, masks: Mask) -> Any:
        if not isinstance(masks, DroppingMasks):
            return self.block(x, masks)
        return Parted(self.block(x.kept, masks.kept), x.whole)


class LastLayer:
    """All tokens again. `Parted` -> [B, S, H]."""

    def __init__(self, block: Block):
        self.block = self.whole_block = block

    def __call__(self, x: Any, masks: Mask) -> Any:
        if not isinstance(masks, DroppingMasks):
            return self.block(x, masks)
        return self.block(masks.put_back(x.kept, x.whole), masks.whole)


class TokenDroppingParts(Parts):
    def make_attention(self, block: int, tp: TensorParallel) -> TwoStreamAttention:
        return TwoStreamAttention(self.config, self.config.block_heads(block), tp)

    def wrap(self, layers: Sequence[Layer], blocks: Sequence[Block]) -> Sequence[Layer]:
        self.blocks, narrowing = blocks, self.config.narrowing_layer
        return [
            *map(WholeLayer, blocks[:narrowing]),
            NarrowingLayer(blocks[narrowing]),
            *map(KeptLayer, blocks[narrowing + 1 : -1]),
            LastLayer(blocks[-1]),
        ]

    def extend(self, model: nn.Module, tp: TensorParallel) -> None:
        self.losses = TokenLosses(self.config.vocab_size)
        vars(model)["token_losses"] = self.losses

    def mask_layers(self, batch: Batch, mask: Mask) -> Mask:
        settings = self.config.token_dropping
        assert settings is not None
        if not self.is_training:
            return mask
        places = self.losses.kept_places(batch, settings.num_kept(batch.ids.shape[1]))
        return dropping_masks(batch, mask, places)

    def see_losses(self, ids: Tensor, losses: Tensor) -> None:
        if self.is_training:
            self.losses.add(ids, losses)

    def begin_step(self, step: int, steps_masked: int, seed: int) -> None:
        self.losses.begin_step()

    @property
    def is_training(self) -> bool:
        return self.blocks[0].training
