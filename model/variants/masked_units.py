"""New units that fade in behind a mask (MSG): hidden units, heads, FFN units and layers.

Yao et al. 2024 (arXiv 2305.02869). At mask 0 the model computes exactly what it did without the new units, whatever
their weights; at 1 it is the plain model, which the next stage then builds without any of this. The masks sit on
embeddings, queries, keys and values, before the FFN's activation, on the heads' hidden units, and in every LayerNorm.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.norm import LayerNorm
from model.parallel.tensor import TensorParallel

if TYPE_CHECKING:
    from model.bert import BertForPreTraining
    from model.block import Block


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

    def __init__(self, width: int, eps: float, mask: UnitMask):
        super().__init__(width, eps)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        share = self.mask.values.to(wide.dtype)
        share = share / share.sum()
        centred = wide - (wide * share).sum(-1, keepdim=True)
        variance = (centred.square() * share).sum(-1, keepdim=True)
        normalised = (centred * (variance + self.eps).rsqrt()).to(x.dtype)
        return self.mask(normalised * self.weight + self.bias)


class FadingLayer:
    """m block(x) + (1 - m) x."""

    def __init__(self, block: "Block"):
        self.block = block
        self.level = 0.0

    def set(self, level: float) -> None:
        self.level = level

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return torch.lerp(x, self.block(x, mask), self.level)


class NewUnits:
    """All masks of a model, rising together."""

    def __init__(self, model: "BertForPreTraining"):
        config, tp = model.config, model.tp
        assert config.masked is not None
        self.num_steps = config.masked.steps
        self.masks: list[UnitMask | FadingLayer] = [layer for layer in model.layers if isinstance(layer, FadingLayer)]
        if config.masked.hidden:
            self.masks.append(_mask_hidden(model, UnitMask(config.masked.hidden, config.hidden, TensorParallel())))
        for block in range(config.num_blocks):
            attention = model.get_submodule(f"blocks.{block}.attention")
            feedforward = model.get_submodule(f"blocks.{block}.feedforward")
            if num_old := config.old_width("heads", block):
                attention.head_mask = mask = UnitMask(num_old, config.block_heads(block), tp)
                for projection in ("value",) if config.is_light(block) else ("query", "key", "value"):
                    mask.on_output(attention.get_submodule(projection))
                self.masks.append(mask)
            if num_old := config.old_width("ffn", block):
                feedforward.unit_mask = mask = UnitMask(num_old, config.block_ffn(block), tp)
                mask.on_output(feedforward.get_submodule("input"))
                self.masks.append(mask)

    def begin_step(self, step: int, steps_masked: int, seed: int) -> None:
        self.set(min(steps_masked / self.num_steps, 1.0))

    def set(self, level: float) -> None:
        for mask in self.masks:
            mask.set(level)


def _mask_hidden(model: "BertForPreTraining", mask: UnitMask) -> UnitMask:
    config = model.config
    model.hidden_mask = mask
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, LayerNorm) and len(child.weight) == config.hidden:
                setattr(module, name, MaskedLayerNorm(config.hidden, config.norm_eps, mask))
    if config.embedding_size:
        mask.on_output(model.embeddings.projection)
    else:
        mask.on_input(model.embeddings.norm)
        mask.on_output(model.mlm.transform)
    if config.sentence_head:
        mask.on_output(model.pooler)
    return mask
