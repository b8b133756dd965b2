"""The masks behind which new units fade in: hidden units, heads, FFN units and layers.

At mask 0 the model computes exactly what it did without the new units, whatever their weights; at 1 it is the plain
model, which the next stage then builds without any of this. The masks sit on embeddings, queries, keys and values,
before the FFN's activation and on its gate, on the heads' hidden units, and in every norm.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.attention import Mask
from model.block import Block, Layer
from model.config import BertConfig
from model.norm import LayerNorm, RmsNorm
from model.parallel.tensor import TensorParallel
from model.variants.parts import Parts


class UnitMask(nn.Module):
    """x [..., units * width of one] -> the same, new units multiplied by the mask. Holds this rank's part."""

    is_new: Tensor  # [units] bool
    values: Tensor  # [units]

    def __init__(self, num_old: int, num_units: int, tp: TensorParallel):
        super().__init__()
        is_new = (torch.arange(num_units) >= num_old).chunk(tp.size)[tp.rank]
        self.register_buffer("is_new", is_new, persistent=False)
        self.register_buffer("values", torch.ones(len(is_new)), persistent=False)
        self.set(0.0)

    def set(self, level: float) -> None:
        self.values.masked_fill_(self.is_new, level)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.values.to(x.dtype).repeat_interleave(x.shape[-1] // len(self.values))

    def on_output(self, module: nn.Module) -> None:
        module.register_forward_hook(lambda module, inputs, output: self(output))

    def on_input(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda module, inputs: self(inputs[0]))


class MaskedLayerNorm(LayerNorm):
    """Mean and variance weighted by the mask, and the result masked."""

    mask: UnitMask

    def __init__(self, width: int, eps: float, bias: bool, mask: UnitMask):
        super().__init__(width, eps, bias)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        share = self.mask.values.to(wide.dtype)
        share = share / share.sum()
        centred = wide - (wide * share).sum(-1, keepdim=True)
        variance = (centred.square() * share).sum(-1, keepdim=True)
        scaled = (centred * (variance + self.eps).rsqrt()).to(x.dtype) * self.weight
        return self.mask(scaled if self.bias is None else scaled + self.bias)


class MaskedRmsNorm(RmsNorm):
    """The mean square weighted by the mask, and the result masked."""

    mask: UnitMask

    def __init__(self, width: int, eps: float, mask: UnitMask):
        super().__init__(width, eps)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        share = self.mask.values.to(wide.dtype)
        mean_square = (wide.square() * (share / share.sum())).sum(-1, keepdim=True)
        return self.mask((wide * (mean_square + self.eps).rsqrt()).to(x.dtype) * self.weight)


class FadingLayer:
    """m block(x) + (1 - m) x."""

    def __init__(self, block: Block):
        self.block = block
        self.level = 0.0

    def set(self, level: float) -> None:
        self.level = level

    def __call__(self, x: Tensor, mask: Mask) -> Tensor:
        return torch.lerp(x, self.block(x, mask), self.level)


class MaskedUnitsParts(Parts):
    """All masks of a model, which rise together."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.masks: list[UnitMask | FadingLayer] = []

    def wrap(self, layers: Sequence[Layer], blocks: Sequence[Block]) -> Sequence[Layer]:
        assert self.config.masked is not None
        new = {number: FadingLayer(blocks[number]) for number in sorted(set(self.config.masked.layers))}
        self.masks.extend(new.values())
        return [new.get(number, layer) for number, layer in enumerate(layers)]

    def extend(self, model: nn.Module, tp: TensorParallel) -> None:
        config = self.config
        assert config.masked is not None
        if config.masked.hidden:
            mask = UnitMask(config.masked.hidden, config.hidden, TensorParallel())
            _mask_hidden(model, config, mask)
            self.masks.append(mask)
        for block in range(config.num_blocks):
            attention = model.get_submodule(f"blocks.{block}.attention")
            feedforward = model.get_submodule(f"blocks.{block}.feedforward")
            if num_old := config.old_width("heads", block):
                attention.head_mask = mask = UnitMask(num_old, config.block_heads(block), tp)
                for projection in config.projections(block):
                    mask.on_output(attention.get_submodule(projection))
                self.masks.append(mask)
            if num_old := config.old_width("ffn", block):
                feedforward.unit_mask = mask = UnitMask(num_old, config.block_ffn(block), tp)
                for projection in config.inner_projections:
                    mask.on_output(feedforward.get_submodule(projection))
                self.masks.append(mask)

    def begin_step(self, step: int, steps_masked: int, seed: int) -> None:
        assert self.config.masked is not None
        level = min(steps_masked / self.config.masked.steps, 1.0)
        for mask in self.masks:
            mask.set(level)


def _mask_hidden(model: nn.Module, config: BertConfig, mask: UnitMask) -> None:
    model.hidden_mask = mask
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, LayerNorm) and len(child.weight) == config.hidden:
                setattr(module, name, MaskedLayerNorm(config.hidden, config.norm_eps, config.norm_bias, mask))
            elif isinstance(child, RmsNorm) and len(child.weight) == config.hidden:
                setattr(module, name, MaskedRmsNorm(config.hidden, config.norm_eps, mask))
    if config.embedding_size:
        mask.on_output(model.get_submodule("embeddings.projection"))
    else:
        mask.on_input(model.get_submodule("embeddings.norm"))
        mask.on_output(model.get_submodule("mlm.transform"))
    if config.sentence_head:
        mask.on_output(model.get_submodule("pooler"))
