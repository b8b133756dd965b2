"""Linear layers that multiply in FP8, as GPUs can since Ada and Hopper. All that is kept stays as it is.

As in Micikevicius et al. 2022 (arXiv 2209.05433): inputs and weights have 3 bits of mantissa (e4m3), gradients 2 and a
wider range (e5m2), and sums are fp32. Each tensor is scaled as a whole, by what it holds at that moment ("dynamic,
tensorwise" in torchao). So nothing is carried from step to step, recomputation replays every bit, and a tensor-parallel
rank scales its own part. Scales are powers of two, which round nothing: another scale, of a part or of another batch,
changes only numbers some 2^14 times smaller than the largest, which FP8 holds with fewer bits.

The backward pass casts again what autograd keeps anyway, the input and the weight itself: nothing is kept in addition,
and ZeRO 3 and sequence parallelism may free both in between. A CPU computes the same, from torch's own emulation.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.parameter_spec import FP8_MULTIPLE

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

LEAST = 2.0**-100
"""Taken for the largest entry of a tensor of zeros, so that its scale is finite."""

EXPONENT_BITS = 0x7F800000
"""Of an fp32 number: alone they are the power of two below it."""


class Scaled(NamedTuple):
    """A matrix in FP8: values * scale."""

    values: Tensor  # [rows, columns]
    scale: Tensor  # fp32 scalar, a power of two

    @property
    def transposed(self) -> "Scaled":
        return Scaled(self.values.t(), self.scale)


def fp8_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` with products in FP8, also those of the gradients: x [..., inputs], weight [outputs, inputs].

    Both widths have to be multiples of 16. x is bf16 or fp32, as the result.
    """
    if x.numel() == 0:  # a layer that is skipped sees no rows
        return F.linear(x, weight, bias)
    tokens = x.flatten(0, -2)  # [T, inputs]
    missing = -len(tokens) % FP8_MULTIPLE  # the gradient of the weight is a sum over tokens
    padded = F.pad(tokens, (0, 0, 0, missing)) if missing else tokens
    y = _Product.apply(padded, weight)[: len(tokens)].view(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


class _Product(torch.autograd.Function):
    """x [T, inputs], weight [outputs, inputs] -> x weight^T [T, outputs]."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiplied(cast(x, E4M3), cast(weight, E4M3), x.dtype, fast=True)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_output = cast(gradient, E5M2)  # [T, outputs]
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = multiplied(of_output, cast(weight, E4M3).transposed, x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = multiplied(of_output.transposed, cast(x, E4M3).transposed, weight.dtype)
        return of_input, of_weight


def cast(matrix: Tensor, dtype: torch.dtype) -> Scaled:
    """A matrix in FP8, its largest entry in the upper half of the range. One that is not finite becomes NaN."""
    largest = matrix.abs().amax().float().clamp_min(LEAST)
    factor = (torch.finfo(dtype).max / largest).view(torch.int32).bitwise_and(EXPONENT_BITS).view(torch.float32)
    return Scaled((matrix * factor).to(dtype), factor.reciprocal())


def multiplied(left: Scaled, right: Scaled, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """left [m, k] right [n, k]^T -> [m, n]: rows of both lie in one piece, as GPUs want it.

    fast: Hopper may add up with fewer bits than fp32 has, as is usual in the forward pass.
    """
    return torch._scaled_mm(  # which torchao calls, too
        left.values.contiguous(),
        right.values.contiguous().t(),
        scale_a=left.scale,
        scale_b=right.scale,
        out_dtype=dtype,
        use_fast_accum=fast,
    )
