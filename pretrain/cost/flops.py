"""Floating-point operations of a training step, from the shape alone: the one formula behind plan, metrics and MFU.

Matrix products only, a multiply-add counts as two, and the backward pass costs twice the forward (no recomputation):
the convention of the field. For a plain BERT with P predictions in a row of s tokens it is

    F_row = 6 N s + 12 L h s^2 + 6 P (h^2 + V h),    N = L (4 h^2 + 2 h f)

Layers that share a block are computed, and so counted, each. The vocabulary is the logical one: padding is overhead,
not work.
"""

import math

from model.config import BertConfig

PROJECTIONS = ("attention.query", "attention.key", "attention.value")
OVER_KEYS = ("attention.key", "attention.value")
"""The linear layers that read the sequence that is looked at; all others read the one that looks."""
MIXING = "attention.mixing"
"""The products of tokens with each other: the attention map and its use, or what a kernel has in their place."""


def encoder_flops(config: BertConfig, sequence: int, num_predictions: float = 0) -> int:
    """Forward pass of one row of `sequence` tokens, `num_predictions` of them masked, through embeddings and layers.

    Only pooled input asks how many are masked.
    """
    layers = sum(_layer_flops(config, layer, sequence, num_predictions) for layer in range(config.layers))
    return _embedding_flops(config, sequence) + layers


def prediction_flops(config: BertConfig) -> int:
    """Forward pass of the masked-language-model head for one predicted token."""
    return _linear_flops(config, "mlm.transform") + _decoder_flops(config)


def sentence_flops(config: BertConfig) -> int:
    """Forward pass of pooler and sentence classifier for one pair; 0 without a sentence head."""
    return 2 * config.hidden * (config.hidden + 2) if config.sentence_head else 0


def training_flops(config: BertConfig, rows: int, sequence: int, num_predictions: int) -> int:
    """Forward and backward pass of `rows` rows of `sequence` tokens with `num_predictions` predicted tokens in all."""
    per_row = num_predictions / rows
    forward = rows * (encoder_flops(config, sequence, per_row) + sentence_flops(config))
    forward += num_predictions * prediction_flops(config)
    spared = rows * _spared_backward_flops(config, sequence, per_row)
    if config.frozen_layers:
        spared += num_predictions * _decoder_flops(config)  # the tied table's gradient
    return 3 * forward - spared


def _spared_backward_flops(config: BertConfig, sequence: int, num_predictions: float) -> int:
    """What the backward pass of one row through the encoder costs less than twice the forward pass."""
    spared = 2 * _embedding_flops(config, sequence) if config.frozen_layers else 0
    for layer in range(config.layers):
        block = config.block_of(layer)
        forward = _layer_flops(config, layer, sequence, num_predictions)
        spared += round(2 * forward * (1 - _part_trained(config, layer)))
        if layer < config.frozen_layers:
            continue
        spared += _random_feature_flops(config, block, sequence)  # their directions have no gradient
        if layer == config.frozen_layers > 0 and config.norm == "post":  # the lowest trained layer passes none on
            length = round(_lengths(config, layer, sequence, num_predictions)[0])
            spared += length * sum(_input_gradient_flops(config, name, block) for name in PROJECTIONS)
    return spared


def _embedding_flops(config: BertConfig, sequence: int) -> int:
    return 2 * sequence * config.embedding_size * config.hidden if config.embedding_size else 0


def _decoder_flops(config: BertConfig) -> int:
    return 2 * config.embedding_width * config.vocab_size


def layer_terms(config: BertConfig, layer: int, sequence: int, num_predictions: float = 0) -> dict[str, float]:
    """Forward pass of one row through one layer, by what computes it: its linear layers, and what mixes tokens."""
    block = config.block_of(layer)
    queries, keys = _lengths(config, layer, sequence, num_predictions)
    linears = [*PROJECTIONS, "attention.output", "feedforward.input", "feedforward.output"]
    if config.is_light(block):
        linears = linears[2:]  # without query and key
    terms = {name: (keys if name in OVER_KEYS else queries) * _linear_flops(config, name, block) for name in linears}
    return terms | {MIXING: _mixing_flops(config, block, queries, keys)}


def _layer_flops(config: BertConfig, layer: int, sequence: int, num_predictions: float) -> int:
    """One row through one layer, as often as that runs."""
    terms = layer_terms(config, layer, sequence, num_predictions)
    return round(sum(terms.values()) * _part_run(config, layer))


def _part_run(config: BertConfig, layer: int) -> float:
    """The part of the steps in which a layer runs at all."""
    if config.layer_drop:
        return config.layer_drop.keep_probability(layer, config.layers, config.layer_drop.keep)
    return 1 - layer // config.sub_models / config.num_sub_models if config.sub_models else 1


def _part_trained(config: BertConfig, layer: int) -> float:
    """The part of those steps in which it is trained, too: a layer of sub-models is at one depth of all."""
    if layer < config.frozen_layers:
        return 0
    return 1 / (config.num_sub_models * _part_run(config, layer)) if config.sub_models else 1


def _lengths(config: BertConfig, layer: int, sequence: int, num_predictions: float) -> tuple[float, float]:
    """How many tokens of a row a layer computes, and how many it looks at."""
    if config.pool_window == 1:
        return sequence, sequence
    slots = 1 + math.ceil((sequence - num_predictions - 1) / config.pool_window) + num_predictions
    return slots, sequence if layer == 0 else slots


def _mixing_flops(config: BertConfig, block: int, queries: float, keys: float) -> float:
    num_heads, head_dim = config.block_heads(block), config.head_dim
    if config.attention == "softmax":
        num_products = 1 if config.is_light(block) else 2  # map times values, and the map itself
        return num_products * 2 * queries * keys * num_heads * head_dim
    # Keys into the memory, queries out of it, and the queries' normalisers.
    kernel = 2 * queries * num_heads * config.num_kernel_features * (2 * head_dim + 1)
    return kernel + _random_feature_flops(config, block, queries)


def _random_feature_flops(config: BertConfig, block: int, sequence: float) -> int:
    """The random projections of queries and keys in one layer (FAVOR+)."""
    if config.attention != "favor":
        return 0
    return round(4 * sequence * config.block_heads(block) * config.head_dim * config.num_kernel_features)


def _linear_flops(config: BertConfig, linear: str, block: int = 0) -> int:
    """One token through a linear layer of full or low rank."""
    outputs, inputs = config.linear_shape(linear, block)
    rank = config.rank(linear)
    return 2 * (outputs * inputs if rank is None else rank * (outputs + inputs))


def _input_gradient_flops(config: BertConfig, linear: str, block: int) -> int:
    """One token's gradient with respect to the input of a linear layer, once that of the output is there."""
    outputs, inputs = config.linear_shape(linear, block)
    return 2 * inputs * (config.rank(linear) or outputs)
