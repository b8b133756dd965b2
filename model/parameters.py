"""The parameter table: the one place that knows every parameter, its axes and what each axis does there.

Tensor-parallel slicing, growth, optimizer groups, checkpoints, Hugging Face names, FLOP and memory counts all read it.
The names are those of `BertForPreTraining.named_parameters()`; the shapes are *logical*: unsharded, without vocabulary
padding, one dimension for each axis (a query weight is `[heads, head_dim, hidden]`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Literal

from model.config import VOCABULARY_MULTIPLE, BertConfig

Role = Literal["produced", "consumed", "fixed"]
"""What a parameter does on an axis. `produced`: its output lives there; `consumed`: its input does; `fixed`: neither
grows with it nor feeds it (vocabulary, positions, classes)."""

Cut = Literal["output", "input"] | None
"""Which side of a linear layer tensor parallelism cuts."""


@dataclass(frozen=True)
class Axis:
    name: str
    size: int
    role: Role


@dataclass(frozen=True)
class ParameterSpec:
    name: str
    axes: tuple[Axis, ...]
    tensor_parallel_axis: int | None = None
    """Index of the axis that tensor parallelism cuts; None: every rank holds the whole parameter."""
    decay: bool = True
    """Whether weight decay applies: to matrices, not to biases and LayerNorms."""
    init: Literal["normal", "zeros", "ones"] = "normal"
    block: int | None = None
    trainable: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """The shape in memory before tensor parallelism cuts it: the vocabulary rounded up to its multiple."""
        multiple = {"vocabulary": VOCABULARY_MULTIPLE}
        return tuple(-(-axis.size // (m := multiple.get(axis.name, 1))) * m for axis in self.axes)

    @property
    def between_regions(self) -> bool:
        """Whether it works on tokens between the tensor-parallel regions: where these are divided among the ranks
        (sequence parallelism), each rank has a part of its gradient."""
        in_a_head = self.name.startswith(("mlm.", "pooler.", "sentence."))
        return self.tensor_parallel_axis is None and not in_a_head and not self.name.endswith(".down")

    @property
    def local_name(self) -> str:
        """The name inside its block (`attention.query.weight`), or the whole name outside the blocks."""
        return self.name if self.block is None else self.name.split(".", 2)[2]


@lru_cache(maxsize=64)
def parameter_table(config: BertConfig) -> dict[str, ParameterSpec]:
    """Every parameter of the model, in model order, by name."""
    return {spec.name: replace(spec, trainable=not _is_frozen(config, spec)) for spec in _rows(config)}


def _is_frozen(config: BertConfig, spec: ParameterSpec) -> bool:
    if spec.block is not None:
        return config.is_frozen(spec.block)
    return config.frozen_layers > 0 and spec.name.startswith("embeddings.")


def _rows(config: BertConfig) -> Iterator[ParameterSpec]:
    hidden_out = Axis("hidden", config.hidden, "produced")
    hidden_in = Axis("hidden", config.hidden, "consumed")
    # The tables' own axis: hidden itself, or the width from which a projection leads there (ALBERT).
    embedding = "embedding" if config.embedding_size else "hidden"
    embedding_out = Axis(embedding, config.embedding_width, "produced")
    embedding_in = Axis(embedding, config.embedding_width, "consumed")
    vocabulary = Axis("vocabulary", config.vocab_size, "fixed")

    yield ParameterSpec("embeddings.word.weight", (vocabulary, embedding_out), tensor_parallel_axis=0)
    yield ParameterSpec("embeddings.position.weight", (Axis("positions", config.max_positions, "fixed"), embedding_out))
    yield ParameterSpec("embeddings.token_type.weight", (Axis("types", config.type_vocab, "fixed"), embedding_out))
    if config.norm == "post":
        yield from _norm("embeddings.norm", embedding_out)
    if config.embedding_size:
        yield from _linear("embeddings.projection", (hidden_out,), (embedding_in,))
    for block in range(config.num_blocks):
        yield from _block_rows(config, block)
    if config.norm == "pre":
        yield from _norm("final_norm", hidden_out)
    yield ParameterSpec("mlm.bias", (vocabulary,), tensor_parallel_axis=0, decay=False, init="zeros")
    yield from _linear("mlm.transform", (embedding_out,), (hidden_in,), rank=config.rank("mlm.transform"))
    # This norm feeds the tied word table, which sums over its units: there it is a consumer.
    yield from _norm("mlm.norm", embedding_in)
    if config.sentence_head:
        yield from _linear("pooler", (hidden_out,), (hidden_in,))
        yield from _linear("sentence", (Axis("classes", 2, "fixed"),), (hidden_in,))


def _block_rows(config: BertConfig, block: int) -> Iterator[ParameterSpec]:
    hidden_out = Axis("hidden", config.hidden, "produced")
    hidden_in = Axis("hidden", config.hidden, "consumed")
    heads, ffn = config.block_heads(block), config.block_ffn(block)
    heads_out = (Axis("heads", heads, "produced"), Axis("head_dim", config.head_dim, "produced"))
    heads_in = (Axis("heads", heads, "consumed"), Axis("head_dim", config.head_dim, "consumed"))
    ffn_out, ffn_in = Axis("ffn", ffn, "produced"), Axis("ffn", ffn, "consumed")

    def linear(name: str, outputs: tuple[Axis, ...], inputs: tuple[Axis, ...], cut: Cut, bias: bool):
        return _linear(f"blocks.{block}.{name}", outputs, inputs, cut, config.rank(name), bias, block)

    if config.slimming:
        yield _coefficients(f"blocks.{block}.attention", heads_out[0], block)
    for projection in ("value",) if config.is_light(block) else ("query", "key", "value"):
        yield from linear(f"attention.{projection}", heads_out, (hidden_in,), "output", config.attention_bias)
    yield from linear("attention.output", (hidden_out,), heads_in, "input", config.attention_bias)
    yield from _norm(f"blocks.{block}.attention.norm", hidden_out, block)
    if config.slimming:
        yield _coefficients(f"blocks.{block}.feedforward", ffn_out, block)
    yield from linear("feedforward.input", (ffn_out,), (hidden_in,), "output", config.ffn_bias)
    yield from linear("feedforward.output", (hidden_out,), (ffn_in,), "input", config.ffn_bias)
    yield from _norm(f"blocks.{block}.feedforward.norm", hidden_out, block)


def _linear(
    name: str,
    outputs: tuple[Axis, ...],
    inputs: tuple[Axis, ...],
    cut: Cut = None,
    rank: int | None = None,
    bias: bool = True,
    block: int | None = None,
) -> Iterator[ParameterSpec]:
    """Weight `[outputs, inputs]`, or its factors `down [rank, inputs]` and `up [outputs, rank]`, and bias `[outputs]`.

    Cut by output: column parallel; by input: row parallel. The rank is not cut.
    """
    output_cut = 0 if cut == "output" else None
    if rank is None:
        weight_cut = len(outputs) if cut == "input" else output_cut
        yield ParameterSpec(f"{name}.weight", outputs + inputs, weight_cut, block=block)
    else:
        down_cut = 1 if cut == "input" else None
        yield ParameterSpec(f"{name}.down", (Axis("rank", rank, "produced"), *inputs), down_cut, block=block)
        yield ParameterSpec(f"{name}.up", (*outputs, Axis("rank", rank, "consumed")), output_cut, block=block)
    if bias:
        yield ParameterSpec(f"{name}.bias", outputs, output_cut, decay=False, init="zeros", block=block)


def _norm(name: str, axis: Axis, block: int | None = None) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{name}.weight", (axis,), decay=False, init="ones", block=block)
    yield ParameterSpec(f"{name}.bias", (axis,), decay=False, init="zeros", block=block)


def _coefficients(branch: str, axis: Axis, block: int) -> ParameterSpec:
    return ParameterSpec(f"{branch}.coefficients", (axis,), 0, decay=False, init="ones", block=block)
