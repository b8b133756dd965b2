"""Floating-point operations of a training step, from the parameter table: the one formula behind plan, metrics and MFU.

Matrix products only, a multiply-add counts as two, and the backward pass costs twice the forward (no recomputation):
the convention of the field. For a plain BERT with P predictions in a row of s tokens it is

    F_row = 6 N s + 12 L h s^2 + 6 P (h^2 + V h),    N = L (4 h^2 + 2 h f)

A matrix in the table costs two operations per element and token; what has no parameters (products of tokens with each
other), and how often a layer runs, the shape says. Every layer that uses a shared block counts. The vocabulary is the
logical one: padding is overhead, not work.
"""

from functools import lru_cache

from model.parameters import ParameterSpec, parameter_table
from model.shape import Shape

OVER_KEYS = ("attention.key", "attention.value")
"""The linear layers that read the sequence that is looked at; all others read the one that looks."""
READERS = ("attention.query", *OVER_KEYS)
"""The linear layers that read a layer's input."""
MIXING = "attention.mixing"
"""The products of tokens with each other: the attention map and its use, or what a kernel computes instead."""


def encoder_flops(shape: Shape, sequence: int, num_predictions: float = 0) -> int:
    """Forward pass of one row of `sequence` tokens, `num_predictions` of them masked, through embeddings and layers.

    The number of masked tokens matters only to pooled input.
    """
    layers = sum(_layer_flops(shape, layer, sequence, num_predictions) for layer in range(shape.layers))
    return sequence * _outside_flops(shape, "embeddings.projection") + layers


def prediction_flops(shape: Shape) -> int:
    """Forward pass of the masked-language-model head for one predicted token."""
    return _outside_flops(shape, "mlm.transform") + _decoder_flops(shape)


def sentence_flops(shape: Shape) -> int:
    """Forward pass of pooler and sentence classifier for one pair; 0 without a sentence head."""
    return _outside_flops(shape, "pooler") + _outside_flops(shape, "sentence")


@lru_cache(maxsize=4096)
def training_flops(shape: Shape, rows: int, sequence: int, num_predictions: int) -> int:
    """Forward and backward pass of `rows` rows of `sequence` tokens with `num_predictions` predicted tokens in all."""
    per_row = num_predictions / rows
    forward = rows * (encoder_flops(shape, sequence, per_row) + sentence_flops(shape))
    forward += num_predictions * prediction_flops(shape)
    spared = rows * _spared_backward_flops(shape, sequence, per_row)
    if not decoder(shape).trainable:
        spared += num_predictions * _decoder_flops(shape)  # the tied table's gradient
    return 3 * forward - spared


def layer_terms(shape: Shape, layer: int, sequence: int, num_predictions: float = 0) -> dict[str, float]:
    """Forward pass of one row through one layer, by what computes it: its linear layers, and what mixes tokens."""
    block = shape.block_of(layer)
    queries, keys = shape.num_tokens(layer, sequence, num_predictions)
    terms = {
        linear: (keys if linear in OVER_KEYS else queries) * _token_flops(specs)
        for linear, specs in linears_of(shape, block).items()
    }
    return terms | {MIXING: shape.mixing_flops(block, queries, shape.seen_keys(layer, keys))}


def _layer_flops(shape: Shape, layer: int, sequence: int, num_predictions: float) -> int:
    """One row through one layer, times how often that runs."""
    terms = layer_terms(shape, layer, sequence, num_predictions)
    return round(sum(terms.values()) * shape.run_share(layer))


def _spared_backward_flops(shape: Shape, sequence: int, num_predictions: float) -> int:
    """What the backward pass of one row through the encoder costs less than twice the forward pass."""
    below_trains = decoder(shape).trainable  # the embeddings, and then the layers below this one
    projection = sequence * _outside_flops(shape, "embeddings.projection")
    spared = 0 if below_trains else 2 * projection
    for layer in range(shape.layers):
        block = shape.block_of(layer)
        linears = linears_of(shape, block)
        is_trained = all(spec.trainable for specs in linears.values() for spec in specs)
        trained_share = shape.trained_share(layer) if is_trained else 0
        forward = _layer_flops(shape, layer, sequence, num_predictions)
        spared += round(2 * forward * (1 - trained_share))
        if not is_trained:
            continue
        spared += round(shape.constant_product_flops(block, sequence))
        if not below_trains and shape.norm == "post":  # nothing below needs a gradient, nor does a norm before these
            queries, keys = map(round, shape.num_tokens(layer, sequence, num_predictions))
            for linear in READERS:
                tokens = keys if linear in OVER_KEYS else queries
                spared += tokens * _input_gradient_flops(linears.get(linear, []))
        below_trains = True
    return spared


def linears_of(shape: Shape, block: int | None) -> dict[str, list[ParameterSpec]]:
    """The linear layers of a block, or those outside the blocks: the matrices of each, its weight or two factors."""
    return _linears(shape).get(block, {})


@lru_cache(maxsize=512)
def _linears(shape: Shape) -> dict[int | None, dict[str, list[ParameterSpec]]]:
    """By block, in one walk through the table."""
    linears: dict[int | None, dict[str, list[ParameterSpec]]] = {}
    for spec in parameter_table(shape).values():
        if spec.is_product:
            linears.setdefault(spec.block, {}).setdefault(spec.module, []).append(spec)
    return linears


def decoder(shape: Shape) -> ParameterSpec:
    """The word table, over which the head scores every word."""
    return parameter_table(shape)["embeddings.word.weight"]


def _decoder_flops(shape: Shape) -> int:
    return 2 * decoder(shape).numel


def _outside_flops(shape: Shape, linear: str) -> int:
    """One token through a linear layer outside the blocks; 0 if the shape has no such layer."""
    return _token_flops(linears_of(shape, None).get(linear, []))


def _token_flops(matrices: list[ParameterSpec]) -> int:
    """One token through a linear layer of full or low rank."""
    return 2 * sum(spec.numel for spec in matrices)


def _input_gradient_flops(matrices: list[ParameterSpec]) -> int:
    """One token's gradient with respect to the input of a linear layer, once that of the output is there."""
    return 2 * sum(spec.numel for spec in matrices if not spec.name.endswith(".up"))
