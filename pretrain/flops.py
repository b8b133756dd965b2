"""Floating-point operations of a training step, from the shape alone: the one formula behind plan, metrics and MFU.

Matrix products only, a multiply-add counts as two, and the backward pass costs twice the forward (no recomputation):
the convention of the field. For a plain BERT with P predictions in a row of s tokens it is

    F_row = 6 N s + 12 L h s^2 + 6 P (h^2 + V h),    N = L (4 h^2 + 2 h f)

Layers that share a block are computed, and so counted, each. The vocabulary is the logical one: padding is overhead,
not work.
"""

from model.config import BertConfig

BACKWARD_AND_FORWARD = 3
BLOCK_LINEARS = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feedforward.input",
    "feedforward.output",
)


def encoder_flops(config: BertConfig, sequence: int) -> int:
    """Forward pass of one row of `sequence` tokens through embeddings and all layers."""
    total = 0
    if config.embedding_size:
        total += 2 * sequence * config.embedding_size * config.hidden
    for layer in range(config.layers):
        block = config.block_of(layer)
        linears = sum(_multiplies(config, name, block) for name in BLOCK_LINEARS)
        scores_and_mix = 2 * sequence * config.block_heads(block) * config.head_dim
        total += 2 * sequence * (linears + scores_and_mix)
    return total


def prediction_flops(config: BertConfig) -> int:
    """Forward pass of the masked-language-model head for one predicted token."""
    return 2 * (_multiplies(config, "mlm.transform") + config.embedding_width * config.vocab_size)


def sentence_flops(config: BertConfig) -> int:
    """Forward pass of pooler and sentence classifier for one pair; 0 without a sentence head."""
    return 2 * config.hidden * (config.hidden + 2) if config.sentence_head else 0


def training_flops(config: BertConfig, rows: int, sequence: int, num_predictions: int) -> int:
    """Forward and backward pass of `rows` rows of `sequence` tokens with `num_predictions` predicted tokens in all."""
    per_row = encoder_flops(config, sequence) + sentence_flops(config)
    return BACKWARD_AND_FORWARD * (rows * per_row + num_predictions * prediction_flops(config))


def _multiplies(config: BertConfig, linear: str, block: int = 0) -> int:
    """Multiply-adds of a linear layer for one token."""
    outputs, inputs = config.linear_shape(linear, block)
    rank = config.rank(linear)
    return outputs * inputs if rank is None else rank * (outputs + inputs)
