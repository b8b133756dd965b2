"""Slimming coefficients (EarlyBERT): a learned factor on every head and every FFN unit, with an L1 penalty.

Chen et al. 2021 (arXiv 2101.00063). A head's factor multiplies its attention probabilities, which is the same as
multiplying its context; a unit's factor multiplies its activation. Both are the input of the branch's output layer.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from model.bert import BertForPreTraining
    from model.block import Block


def add_coefficients(block: "Block", num_heads: int, ffn: int) -> None:
    """Gives a block this rank's part of its coefficients: `attention.coefficients`, `feedforward.coefficients`."""
    for branch, size in ((block.attention, num_heads), (block.feedforward, ffn)):
        branch.coefficients = nn.Parameter(torch.empty(size))
        branch.output.register_forward_pre_hook(
            lambda module, inputs, branch=branch: _scaled(inputs[0], branch.coefficients)
        )


def _scaled(x: Tensor, coefficients: Tensor) -> Tensor:  # [..., units * width of one], [units]
    return x * coefficients.repeat_interleave(x.shape[-1] // len(coefficients))


def penalty(model: "BertForPreTraining") -> Tensor:
    """The L1 term of the loss: over all layers and tensor-parallel ranks. Scalar."""
    config = model.config
    assert config.slimming is not None
    total = torch.zeros((), device=model.mlm.bias.device)
    for layer in range(config.layers):
        block = f"blocks.{config.block_of(layer)}"
        total = total + config.slimming.heads * model.get_parameter(f"{block}.attention.coefficients").abs().sum()
        total = total + config.slimming.ffn * model.get_parameter(f"{block}.feedforward.coefficients").abs().sum()
    return model.tp.sum(total)


def coefficients(model: "BertForPreTraining") -> dict[str, Tensor]:
    """This rank's coefficients by parameter name, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if name.endswith(".coefficients")}
