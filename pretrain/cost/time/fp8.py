"""What `fp8: true` adds to a step: every operand of a product in a block is cast (`model/fp8.py`).

Products themselves are those of pretrain/cost/time/products.py, at the machine's rates in FP8.
"""

from typing import NamedTuple

from pretrain.cost.flops import OVER_KEYS
from pretrain.cost.memory import FP32_BYTES
from pretrain.cost.time.products import linears, sides
from pretrain.recipe import ResolvedStage

OPERATORS, FUSED_OPERATORS = (21, 33), (6, 8)
"""More than a product in another precision, of a matrix forward and backward. Plain ones are counted; what a compiled
block needs is assumed: three to find a largest entry and cast, one to cast and turn."""


class Casts(NamedTuple):
    """Elements that are cast in one micro-batch."""

    operands: float
    """Inputs and weights, in the forward pass."""
    gradients: float
    """Of results, in the backward pass."""
    again: float
    """Inputs and weights once more, which the gradients are multiplied by."""


def cast_bytes(stage: ResolvedStage, fused: bool) -> tuple[float, float]:
    """Of one micro-batch, forward and backward. `fused`: two passes over an operand, one to find the largest entry and
    one to scale and cast. Plain operators take six, and turn each operand of the backward pass in two more."""
    size = FP32_BYTES if stage.precision == "fp32" else 2
    casts = casts_of(stage, fused)
    if fused:  # the backward pass knows the scales of inputs and weights
        forward, again, turned = 2 * size + 1, size + 1, 0
    else:
        forward = again = 6 * size + 1
        turned = 2
    backward = (forward + turned) * casts.gradients + (again + turned) * casts.again
    return forward * casts.operands, backward + forward * stage.recompute * casts.operands


def casts_of(stage: ResolvedStage, fused: bool) -> Casts:
    """`fused`: blocks are compiled, so that query, key and value have their input cast once."""
    operands = gradients = again = 0.0
    for specs, tokens, times, trained in linears(stage):
        for spec in (spec for spec in specs if spec.block is not None):
            inputs, outputs = sides(spec, stage.tensor_parallel)
            is_shared = fused and spec.module in OVER_KEYS and len(specs) == 1
            into = inputs * outputs + tokens * inputs * (not is_shared)
            operands += times * into
            gradients += times * trained * tokens * outputs
            again += times * trained * into
    return Casts(operands, gradients, again)


def cast_operators(stage: ResolvedStage, fused: bool) -> tuple[float, float]:
    """Of one micro-batch, forward and backward."""
    forward, backward = FUSED_OPERATORS if fused else OPERATORS
    products = sum(times for specs, _, times, _ in linears(stage) for spec in specs if spec.block is not None)
    return forward * products, backward * products
