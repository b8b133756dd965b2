"""Linear layers whose weight may be one tensor-parallel rank's part.

Thin modules over megatron-core's mappings replace its Column/RowParallelLinear: on a CPU in bf16, forward and backward
together take 0.7 to 0.9 times as long (addmm fuses the bias), and query, key and value share one entry into the
tensor-parallel region. All tensors are created empty; `model.initialize` or a training state fills them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.fp8 import fp8_linear
from model.parallel.tensor import TensorParallel

REPLICATED = TensorParallel()


class Multiplying(nn.Module):
    """What multiplies by matrices of its own."""

    fp8 = False
    """In FP8 (`multiply_in_fp8`)."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return fp8_linear(x, weight, bias) if self.fp8 else F.linear(x, weight, bias)


class Linear(Multiplying):
    """x [..., inputs] -> [..., outputs]. Column parallel when `outputs` counts only this rank's part."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}"


class RowParallelLinear(Linear):
    """x [..., this rank's part of the inputs] -> [..., outputs], summed over tensor-parallel ranks, then the bias."""

    def __init__(self, inputs: int, outputs: int, tp: TensorParallel, bias: bool = True):
        super().__init__(inputs, outputs, bias)
        self.tp = tp

    def forward(self, x: Tensor) -> Tensor:
        if self.tp.size == 1:
            return self.product(x, self.weight, self.bias)
        x = self.tp.leave(self.product(x, self.weight))
        return x if self.bias is None else x + self.bias


class LowRankLinear(Multiplying):
    """`Linear` with weight up @ down: x [..., inputs] -> [..., rank] -> [..., outputs].

    Column parallel: `outputs` is this rank's part, `down` is whole on every rank and collects the gradient of all.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, tp: TensorParallel, bias: bool = True):
        super().__init__()
        self.tp = tp
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.empty(outputs, rank))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        # The input has entered the tensor-parallel region already (once for query, key and value), so `down` enters.
        return self.product(self.product(x, self.tp.enter(self.down)), self.up, self.bias)


class LowRankRowParallelLinear(LowRankLinear):
    """x [..., this rank's part of the inputs] -> [..., rank], summed over tensor-parallel ranks -> [..., outputs]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.tp.leave(self.product(x, self.down)), self.up, self.bias)


def make_linear(
    inputs: int,
    outputs: int,
    rank: int | None,
    tp: TensorParallel = REPLICATED,
    bias: bool = True,
) -> nn.Module:
    """A linear layer of full or low rank; column parallel over `tp` when `outputs` is this rank's part."""
    return Linear(inputs, outputs, bias) if rank is None else LowRankLinear(inputs, outputs, rank, tp, bias)


def make_row_parallel_linear(
    inputs: int, outputs: int, rank: int | None, tp: TensorParallel, bias: bool = True
) -> nn.Module:
    """A row-parallel linear layer of full or low rank."""
    if rank is None:
        return RowParallelLinear(inputs, outputs, tp, bias)
    return LowRankRowParallelLinear(inputs, outputs, rank, tp, bias)


def multiply_in_fp8(blocks: nn.Module) -> None:
    """Lets all linear layers in these blocks do so."""
    for module in blocks.modules():
        if isinstance(module, Multiplying):
            module.fp8 = True
