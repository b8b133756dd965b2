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
    from model.block import Block


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
            # To an optimizer a missing gradient is not zero (DeepSpeed would take the last one that came), so a batch
            # of no rows passes through the layer and leaves zeros.
            return torch.cat([x, block(x[:0], None if mask is None else mask[:0])])
        x = x + block.dropout(block.attention(block.attention.norm(x), mask)) / self.keep
        return x + block.dropout(block.feedforward(block.feedforward.norm(x))) / self.keep
