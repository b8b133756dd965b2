"""Progressive layer dropping: a layer is skipped at random, and scaled up where it is kept.

Zhang and He 2020 (arXiv 2010.13369), with pre-LN: x + G/p attention(norm(x)), then x + G/p ffn(norm(x)), one draw
G ~ Bernoulli(p) for both. The schedule is `LayerDrop.theta`. In evaluation every layer runs.
"""

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.config import BertConfig

if TYPE_CHECKING:
    from model.bert import Block


class DroppableLayer:
    """x [B, S, H] -> [B, S, H]. One draw a micro-batch, equal on all ranks: a function of (seed, step, layer)."""

    def __init__(self, config: BertConfig, layer: int, block: "Block"):
        assert config.layer_drop is not None
        self.settings, self.num_layers, self.layer, self.block = config.layer_drop, config.layers, layer, block
        self.begin_step(step=0, steps_masked=0, seed=0)

    def begin_step(self, step: int, steps_masked: int, seed: int) -> None:
        theta = self.settings.theta(step)
        self.keep = self.settings.keep_probability(self.layer, self.num_layers, theta)
        self.draws = random.Random(f"layer drop {seed} {step} {self.layer}")

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        block = self.block
        if not block.training:
            return block(x, mask)
        if self.draws.random() >= self.keep:
            return _ZeroGradients.apply(x, *block.parameters())
        x = x + block.dropout(block.attention(block.attention.norm(x), mask)) / self.keep
        return x + block.dropout(block.feedforward(block.feedforward.norm(x))) / self.keep


class _ZeroGradients(torch.autograd.Function):
    """x, and zeros as the gradients of parameters that were not used: to an optimizer a missing gradient is not zero
    (DeepSpeed would take the last one that came)."""

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, *(torch.zeros_like(p) if p.requires_grad else None for p in ctx.parameters)
