"""The passes of a step over memory: bytes that each kind reads and writes on one rank.

Counted as plain torch operators move them, forward and backward, in elements of E bytes: an operator reads its inputs
and writes its result. Where blocks are compiled, residual sums, dropout and biases cost nothing of their own. What a
kind reaches in GB/s is the machine's (`passes`): less than its memory on a CPU, where GELU, for one, is arithmetic.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from pretrain.cost.memory import FP32_BYTES, parameters_per_tensor_rank
from pretrain.recipe import ResolvedStage

Bytes = dict[str, float]
"""By kind of pass."""

MOVED = {
    "norm": (2, 3),  # reads x, writes y; reads x and the gradient of y, writes that of x
    "activation": (2, 3),
    "residual": (3, 3),  # reads two, writes one; the gradients of two paths are added
    "bias": (0, 1),  # the sum over tokens
    "dropout": (5, 3),  # draws a mask, reads and writes; the mask and the gradient, writes
    "embedding": (8, 4),  # three tables and two sums; three tables' gradients
    "cross_entropy": (1, 2),  # of the scores; in chunks that stay in the cache
}
"""Elements moved for one element, forward and backward. Compiled blocks do residual, bias and dropout in passing."""
FUSED = ("residual", "bias", "dropout")

UPDATE_BYTES: Mapping[str, int] = {"adamw": 28, "lamb": 44, "lans": 52, "stableadamw": 44}
"""Of an optimizer's step, for one parameter in fp32: gradient, weight and two moments, each once read or written in
every pass. Others count as AdamW."""


class PassBytes(NamedTuple):
    forward: Bytes
    """Of one micro-batch."""
    backward: Bytes
    """The same, with gradients added to those of earlier micro-batches."""
    reducing: Bytes
    """Of one micro-batch whose gradients are reduced."""
    update: Bytes
    """Of a step."""


def pass_bytes(stage: ResolvedStage, on_cpu: bool, fused: bool) -> PassBytes:
    """`fused`: blocks are compiled. `on_cpu`: attention computes its map as a whole, and dropout with it."""
    elements = _elements(stage, on_cpu)
    size = FP32_BYTES if stage.precision == "fp32" else 2
    forward, backward = (
        {
            kind: size * MOVED[kind][direction] * count
            for kind, count in elements.items()
            if not (fused and kind in FUSED)
        }
        for direction in (0, 1)
    )
    if stage.recompute:
        backward = {kind: backward.get(kind, 0) + forward[kind] * (kind in _INSIDE) for kind in forward}
    config, trained = stage.config, parameters_per_tensor_rank(stage.config, stage.tensor_parallel, trained_only=True)
    table = config.padded_vocab_size * config.embedding_width / stage.tensor_parallel
    copied = 5 * table + 3 * trained * (stage.accumulation > 1)  # both uses of the word table; then what was there
    backward["copy"] = size * copied
    through_buckets = stage.zero_stage > 0 and (stage.data_parallel > 1 or stage.zero_stage > 1)
    reducing = {"copy": size * 6.0 * trained * through_buckets}  # into a bucket, divided, out of it
    return PassBytes(forward, backward, reducing, _update(stage, size, trained))


_INSIDE = ("norm", "activation", "residual", "dropout")
"""What recomputation does again."""


def _elements(stage: ResolvedStage, on_cpu: bool) -> dict[str, float]:
    """Of one micro-batch, by kind of pass."""
    config, rows, length, tp = stage.config, stage.micro_batch, stage.sequence, stage.tensor_parallel
    predictions = rows * length * stage.predicted_share
    between = tp if stage.sequence_parallel else 1
    found: dict[str, float] = defaultdict(float)
    for layer in range(config.layers):
        block, share = config.block_of(layer), config.run_share(layer)
        queries, keys = config.num_tokens(layer, length, length * stage.predicted_share)
        hidden = share * rows * queries * config.hidden / between
        inner = share * rows * queries * config.block_ffn(block) / tp
        found["norm"] += 2 * hidden
        found["residual"] += 2 * hidden
        found["activation"] += inner
        found["residual"] += inner * config.gated  # the product of unit and gate
        found["residual"] += 2 * hidden / tp * (config.positions == "rotary")  # queries and keys are turned
        found["bias"] += inner + 2 * hidden + 3 * hidden / tp
        found["dropout"] += 2 * hidden * (config.hidden_dropout > 0)
        if config.attention_dropout and on_cpu:
            found["dropout"] += (
                share * rows * queries * config.mapped_keys(layer, keys) * config.block_heads(block) / tp
            )
    embedded = rows * length * config.embedding_width / between
    found["embedding"] += embedded
    found["norm"] += embedded * config.normalises_embeddings + predictions * config.embedding_width
    found["dropout"] += embedded * (config.hidden_dropout > 0)
    found["activation"] += predictions * config.embedding_width
    found["cross_entropy"] += predictions * config.padded_vocab_size / tp
    return found


def _update(stage: ResolvedStage, size: int, trained: int) -> Bytes:
    """Flattened gradients in fp32, their norm, clipping, the optimizer's own passes, and the weights written back."""
    own = trained / stage.data_parallel if stage.zero_stage else trained
    has_masters = stage.zero_stage > 0 or size != FP32_BYTES
    copied = (2 * size + (size + FP32_BYTES) * (size != FP32_BYTES)) * has_masters  # flattened, then in fp32
    copied += 2 * FP32_BYTES  # clipped
    copied += (FP32_BYTES + size) * has_masters
    optimizer = stage.optimizer.chosen.name
    update = UPDATE_BYTES.get(optimizer, UPDATE_BYTES["adamw"])
    return {"sum": FP32_BYTES * own * (1 if has_masters else 2), "copy": copied * own, optimizer: update * own}
