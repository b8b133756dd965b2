"""A layer that is skipped at random, and scaled up where it is kept.

With pre-LN: x + G/p attention(norm(x)), then x + G/p ffn(norm(x)), one draw G ~ Bernoulli(p) for both. In evaluation
every layer runs.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from model.attention import Mask
from model.block import Block, Layer
from model.config import BertConfig
from model.variants.parts import Parts


class DroppableLayer:
    """x [B, S, H] -> [B, S, H]. One draw a micro-batch, equal on all ranks: a function of (seed, step, layer)."""

    def __init__(self, config: BertConfig, layer: int, block: Block):
        assert config.layer_drop is not None
        self.settings, self.num_layers, self.layer, self.block = config.layer_drop, config.layers, layer, block
        self.begin_step(step=0, seed=0)

    def begin_step(self, step: int, seed: int) -> None:
        theta = self.settings.theta(step)
        self.keep = self.settings.keep_probability(self.layer, self.num_layers, theta)
        self.draws = random.Random(f"layer drop {seed} {step} {self.layer}")

    def __call__(self, x: Tensor, mask: Mask) -> Tensor:
        block = self.block
        if not block.training:
            return block(x, mask)
        if self.draws.random() >= self.keep:
            # To an optimizer a missing gradient is not zero (DeepSpeed would take the last one that came), so a batch
            # of no rows passes through the layer and leaves zeros.
            return torch.cat([x, block(x[:0], None if mask is None else mask[:0])])
        x = x + block.dropout(block.attention(block.attention.norm(x), mask)) / self.keep
        return x + block.dropout(block.feedforward(block.feedforward.norm(x))) / self.keep


class LayerDropParts(Parts):
    def wrap(self, layers: Sequence[Layer], blocks: Sequence[Block]) -> Sequence[Layer]:
        self.layers = [DroppableLayer(self.config, layer, block) for layer, block in enumerate(blocks)]
        return self.layers

    def begin_step(self, step: int, steps_masked: int, seed: int) -> None:
        for layer in self.layers:
            layer.begin_step(step, seed)
