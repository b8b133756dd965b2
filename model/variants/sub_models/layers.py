"""A layer that runs, and is trained, only in the steps that draw it.

What is below the layers being trained runs without gradients; its own are zero, so an optimizer's momentum fades as it
does where layers are dropped. In evaluation every layer runs.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from model.attention import Mask
from model.block import Block, Layer
from model.config import BertConfig
from model.variants.parts import Parts


class SubModelLayer:
    """x [B, S, H] -> [B, S, H]. One draw a step, equal on all ranks: a function of (seed, step)."""

    def __init__(self, config: BertConfig, layer: int, block: Block):
        assert config.sub_models is not None
        self.size, self.num_sizes, self.layer, self.block = config.sub_models, config.num_sub_models, layer, block
        self.begin_step(step=0, seed=0)

    def begin_step(self, step: int, seed: int) -> None:
        depth = self.size * random.Random(f"sub-model {seed} {step}").randint(1, self.num_sizes)
        self.runs = self.layer < depth
        self.is_trained = self.runs and self.layer >= depth - self.size

    def __call__(self, x: Tensor, mask: Mask) -> Tensor:
        block = self.block
        if self.is_trained or not block.training:
            return block(x, mask)
        # A batch of no rows passes through with gradients and leaves zeros: to an optimizer a missing one is not zero.
        no_rows = block(x[:0], None if mask is None else mask[:0])
        if not self.runs:
            return torch.cat([x, no_rows])
        with torch.no_grad():
            y = block(x, mask)
        return torch.cat([y, no_rows])


class SubModelParts(Parts):
    def wrap(self, layers: Sequence[Layer], blocks: Sequence[Block]) -> Sequence[Layer]:
        self.layers = [SubModelLayer(self.config, layer, block) for layer, block in enumerate(blocks)]
        return self.layers

    def begin_step(self, step: int, steps_masked: int, seed: int) -> None:
        for layer in self.layers:
            layer.begin_step(step, seed)
