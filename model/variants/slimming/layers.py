"""Where slimming coefficients act, and what pulls them to 0.

A head's factor multiplies its attention probabilities, which is the same as multiplying its context; a unit's factor
multiplies its activation. Both are the input of the branch's output layer.
"""

import torch
from torch import Tensor, nn

from model.parallel.tensor import TensorParallel
from model.parameters import parameter_table
from model.variants.parts import Parts


class SlimmingParts(Parts):
    def extend(self, model: nn.Module, tp: TensorParallel) -> None:
        """Gives each branch this rank's part of its coefficients: `attention.coefficients` and so on."""
        for name, spec in parameter_table(self.config).items():
            branch_name, _, kind = name.rpartition(".")
            if kind == "coefficients":
                branch = model.get_submodule(branch_name)
                branch.coefficients = nn.Parameter(torch.empty(spec.local_shape(tp.size)))
                branch.get_submodule("output").register_forward_pre_hook(
                    lambda module, inputs, branch=branch: _scaled(inputs[0], branch.coefficients)
                )

    def loss_term(self, model: nn.Module, tp: TensorParallel) -> Tensor:
        """The L1 penalty over all layers and tensor-parallel ranks. Scalar."""
        config = self.config
        assert config.slimming is not None
        total = torch.zeros((), device=next(model.parameters()).device)
        for layer in range(config.layers):
            block = f"blocks.{config.block_of(layer)}"
            total = total + config.slimming.heads * model.get_parameter(f"{block}.attention.coefficients").abs().sum()
            total = total + config.slimming.ffn * model.get_parameter(f"{block}.feedforward.coefficients").abs().sum()
        return tp.sum(total)


def _scaled(x: Tensor, coefficients: Tensor) -> Tensor:  # [..., units * width of one], [units]
    return x * coefficients.repeat_interleave(x.shape[-1] // len(coefficients))
