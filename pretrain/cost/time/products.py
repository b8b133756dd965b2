"""Every matrix product of a step on one rank, by shape, from the parameter table; and attention by its lengths.

A linear layer [tokens, inputs] x [inputs, outputs] is three products: itself, the gradient of its input
[tokens, outputs] x [outputs, inputs], and that of its weight [outputs, tokens] x [tokens, inputs].
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from model.parameters import ParameterSpec
from pretrain.cost.flops import MIXING, OVER_KEYS, decoder, layer_terms, linears_of
from pretrain.recipe import ResolvedStage


class Product(NamedTuple):
    """[m, k] x [k, n], `times` in a micro-batch."""

    m: float
    k: float
    n: float
    times: float
    in_block: bool = False

    @property
    def flops(self) -> float:
        return 2 * self.m * self.k * self.n * self.times


class Mixing(NamedTuple):
    """Products of tokens with each other in rows or segments of `length` tokens."""

    length: float
    flops: float


def forward_products(stage: ResolvedStage) -> Iterator[Product]:
    """Those of one micro-batch's forward pass."""
    for specs, tokens, times, _ in linears(stage):
        for spec in specs:
            inputs, outputs = sides(spec, stage.tensor_parallel)
            yield Product(tokens, inputs, outputs, times, spec.block is not None)


def backward_products(stage: ResolvedStage) -> Iterator[Product]:
    """Those of its backward pass; with recomputation the layers' forward pass again."""
    for specs, tokens, times, trained in linears(stage):
        for spec in specs:
            inputs, outputs = sides(spec, stage.tensor_parallel)
            in_block = spec.block is not None
            yield Product(tokens, outputs, inputs, times * trained, in_block)
            if spec.trainable:
                yield Product(outputs, tokens, inputs, times * trained, in_block)
            if stage.recompute and in_block:
                yield Product(tokens, inputs, outputs, times, in_block)


def mixing(stage: ResolvedStage, segment: float | None = None) -> tuple[list[Mixing], list[Mixing]]:
    """Of one micro-batch, forward and backward. `segment`: tokens in a segment, where a kernel computes nothing between
    segments; None: whole rows."""
    config, forward, backward = stage.config, [], []
    length = min(segment or stage.sequence, stage.sequence) if config.attends_over_runs else stage.sequence
    for layer in range(config.layers):
        terms = layer_terms(config, layer, stage.sequence, stage.sequence * stage.predicted_share)
        of_a_row = terms[MIXING] * config.run_share(layer) * length / stage.sequence
        flops = stage.micro_batch * of_a_row / stage.tensor_parallel
        forward.append(Mixing(length, flops))
        backward.append(Mixing(length, flops * (2 * config.trained_share(layer) + stage.recompute)))
    return forward, backward


def linears(stage: ResolvedStage) -> Iterator[tuple[list[ParameterSpec], float, float, float]]:
    """Matrices, tokens, how often they are used, and the share of the uses that has a backward pass.

    Below the lowest layer that trains, nothing needs a gradient.
    """
    config, rows = stage.config, stage.micro_batch
    predictions = stage.sequence * stage.predicted_share
    outside = linears_of(config, None)
    below_trains = decoder(config).trainable
    yield outside.get("embeddings.projection", []), rows * stage.sequence, 1, below_trains
    for layer in range(config.layers):
        block = config.block_of(layer)
        linears = linears_of(config, block)
        below_trains |= any(spec.trainable for specs in linears.values() for spec in specs)
        queries, keys = config.num_tokens(layer, stage.sequence, predictions)
        for linear, specs in linears.items():
            tokens = rows * (keys if linear in OVER_KEYS else queries)
            yield specs, tokens, config.run_share(layer), below_trains * config.trained_share(layer)
    yield outside.get("mlm.transform", []), rows * predictions, 1, 1
    yield [decoder(config)], rows * predictions, 1, 1
    for head in ("pooler", "sentence"):
        yield outside.get(head, []), rows, 1, 1


def sides(spec: ParameterSpec, tensor_parallel: int) -> tuple[int, int]:
    """Inputs and outputs of the matrix that one tensor-parallel rank holds. The word table is one in the head."""
    sizes = list(spec.padded_shape)
    if spec.tensor_parallel_axis is not None:
        sizes[spec.tensor_parallel_axis] //= tensor_parallel
    role = "consumed" if spec.is_product else "produced"
    inputs = prod(size for size, axis in zip(sizes, spec.axes, strict=True) if axis.role == role)
    return inputs, prod(sizes) // inputs
