"""Attention within a window: by blocks of queries, so that little is computed beyond what is seen, by a mask where rows
are hardly longer than that, or by the window of a kernel for runs of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import Mask, SoftmaxAttention, additive
from model.attention_kernels import PackedRows
from model.batch import Batch
from model.block import Block, Layer, whole_block
from model.parallel.tensor import TensorParallel
from model.rotary import RotaryMask, Rotation
from model.variants.local_attention import LocalAttention
from model.variants.parts import Parts


@dataclass(frozen=True)
class Window:
    """Which keys each query sees, by blocks of b queries: those of its own segment that are within reach, in causal
    rows up to itself."""

    seen: Tensor  # bool [B or 1, 1, S / b, b, 3b], over the keys of the block before, its own and the next

    @classmethod
    def of(cls, segments: Tensor, settings: LocalAttention, causal: bool = False) -> "Window":
        """segments [B or 1, S], as in `Batch`."""
        size, length = settings.block_size, segments.shape[1]
        queries = F.pad(segments, (0, -length % size), value=-1).unflatten(1, (-1, size))  # [B, S / b, b]
        keys = around(F.pad(segments, (0, -length % size), value=-1).unsqueeze(-1), size, value=-1).squeeze(-1)
        place = torch.arange(3 * size, device=segments.device)
        distance = place - (place[:size] + size).unsqueeze(1)  # [b, 3b]
        near = (distance >= -settings.reach) & (distance <= (0 if causal else settings.reach))
        same = queries.unsqueeze(-1) == keys.unsqueeze(-2)
        return cls((near & same).unsqueeze(1))

    def __getitem__(self, rows: slice) -> "Window":
        return Window(self.seen[rows])


def around(x: Tensor, size: int, value: float = 0) -> Tensor:
    """For each block of `size` tokens, those of it and of both its neighbours: [..., S, d] -> [..., S / b, 3b, d]."""
    padded = F.pad(x, (0, 0, size, size), value=value)
    return padded.unfold(-2, 3 * size, size).transpose(-1, -2)


class WindowAttention(SoftmaxAttention):
    """Softmax attention, within the window where a layer is local."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | PackedRows | Window | None) -> Tensor:
        if not isinstance(mask, Window):
            return super().attend(query, key, value, mask)
        length, size = query.shape[-2], mask.seen.shape[-2]
        query, key, value = (F.pad(x, (0, 0, 0, -length % size)) for x in (query, key, value))
        query = (query * query.shape[-1] ** -0.5).unflatten(-2, (-1, size))  # [B, n, S / b, b, d]
        scores = query @ around(key, size).transpose(-2, -1)  # [B, n, S / b, b, 3b]
        probabilities = (scores + additive(mask.seen, scores.dtype)).softmax(-1)
        return self.mix(probabilities, around(value, size)).flatten(-3, -2)[..., :length, :]


@dataclass(frozen=True)
class LayerMasks:
    """What global and local layers take."""

    whole: Mask
    local: Mask

    def __getitem__(self, rows: slice) -> "LayerMasks":
        whole, local = (None if mask is None else mask[rows] for mask in (self.whole, self.local))
        return LayerMasks(whole, local)


class MaskedLayer:
    """A layer with the mask of its kind. x [B, S, H] -> [B, S, H]."""

    def __init__(self, layer: Layer, is_local: bool):
        self.layer, self.is_local = layer, is_local

    @property
    def whole_block(self) -> Block | None:
        return whole_block(self.layer)

    def __call__(self, x: Tensor, masks: LayerMasks) -> Tensor:
        return self.layer(x, masks.local if self.is_local else masks.whole)


class LocalAttentionParts(Parts):
    def make_attention(self, block: int, tp: TensorParallel) -> WindowAttention:
        return WindowAttention(self.config, self.config.block_heads(block), tp)

    def wrap(self, layers: Sequence[Layer], blocks: Sequence[Block]) -> Sequence[Layer]:
        return [MaskedLayer(layer, self.config.is_local(number)) for number, layer in enumerate(layers)]

    def mask_layers(self, batch: Batch, mask: Mask) -> LayerMasks:
        settings = self.config.local_attention
        assert settings is not None
        if isinstance(mask, RotaryMask):
            rotation = mask.rotation
            if settings.theta is not None:
                rotation = Rotation.of(batch, self.config.head_dim, settings.theta)
            return LayerMasks(mask, RotaryMask(self._local(batch, mask.mask), rotation))
        return LayerMasks(mask, self._local(batch, mask))

    def _local(self, batch: Batch, mask: Mask) -> Mask:
        """What a local layer takes where a global one takes `mask`."""
        settings, length = self.config.local_attention, batch.ids.shape[1]
        assert settings is not None
        if isinstance(mask, PackedRows):
            return replace(mask, sight=(settings.reach, 0 if batch.causal else settings.reach))
        if length <= 3 * settings.block_size:
            place = torch.arange(length, device=batch.ids.device)
            near = (place - place.unsqueeze(1)).abs() <= settings.reach  # [S, S]
            return near[None, None] if mask is None else mask & near
        segments = torch.ones_like(batch.ids[:1]) if batch.segments is None else batch.segments
        return Window.of(segments, settings, batch.causal)
