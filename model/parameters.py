"""The parameter table: the one place that knows every parameter, its axes and what each axis does there.

Tensor-parallel slicing, growth, optimizer groups, checkpoints, Hugging Face names, FLOP and memory counts all read it.
The names are those of `BertForPreTraining.named_parameters()`; the shapes are *logical*: unsharded, without vocabulary
padding, one dimension for each axis (a query weight is `[heads, head_dim, hidden]`).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from model.parameter_spec import Axis, ParameterSpec
from model.shape import Shape

__all__ = ["Axis", "ParameterSpec", "parameter_table"]

Cut = Literal["output", "input"] | None
"""Which side of a linear layer tensor parallelism cuts."""


@lru_cache(maxsize=512)
def parameter_table(shape: Shape) -> dict[str, ParameterSpec]:
    """Every parameter of the model, in model order, by name."""
    return {spec.name: spec if shape.is_trained(spec) else replace(spec, trainable=False) for spec in _rows(shape)}


def _rows(shape: Shape) -> Iterator[ParameterSpec]:
    hidden_out = Axis("hidden", shape.hidden, "produced")
    hidden_in = Axis("hidden", shape.hidden, "consumed")
    # The tables' own axis: hidden itself, or the width from which a projection leads there (ALBERT).
    embedding = "embedding" if shape.embedding_size else "hidden"
    embedding_out = Axis(embedding, shape.embedding_width, "produced")
    embedding_in = Axis(embedding, shape.embedding_width, "consumed")
    vocabulary = Axis("vocabulary", shape.vocab_size, "fixed")

    yield ParameterSpec("embeddings.word.weight", (vocabulary, embedding_out), tensor_parallel_axis=0)
    if shape.positions == "learned":
        positions = Axis("positions", shape.max_positions, "fixed")
        yield ParameterSpec("embeddings.position.weight", (positions, embedding_out))
    if shape.type_vocab:
        yield ParameterSpec("embeddings.token_type.weight", (Axis("types", shape.type_vocab, "fixed"), embedding_out))
    if shape.normalises_embeddings:
        yield from _norm(shape, "embeddings.norm", embedding_out)
    if shape.embedding_size:
        yield from _linear("embeddings.projection", (hidden_out,), (embedding_in,))
    for block in range(shape.num_blocks):
        yield from _block_rows(shape, block)
    if shape.norm == "pre":
        yield from _norm(shape, "final_norm", hidden_out)
    yield ParameterSpec("mlm.bias", (vocabulary,), tensor_parallel_axis=0, decay=False, init="zeros")
    rank = shape.rank("mlm.transform")
    yield from _linear("mlm.transform", (embedding_out,), (hidden_in,), rank=rank, bias=shape.head_bias)
    # This norm feeds the tied word table, which sums over its units: there it is a consumer.
    yield from _norm(shape, "mlm.norm", embedding_in)
    if shape.sentence_head:
        yield from _linear("pooler", (hidden_out,), (hidden_in,))
        yield from _linear("sentence", (Axis("classes", 2, "fixed"),), (hidden_in,))


def _block_rows(shape: Shape, block: int) -> Iterator[ParameterSpec]:
    hidden_out = Axis("hidden", shape.hidden, "produced")
    hidden_in = Axis("hidden", shape.hidden, "consumed")
    heads, ffn = shape.block_heads(block), shape.block_ffn(block)
    heads_out = (Axis("heads", heads, "produced"), Axis("head_dim", shape.head_dim, "produced"))
    heads_in = (Axis("heads", heads, "consumed"), Axis("head_dim", shape.head_dim, "consumed"))
    ffn_out, ffn_in = Axis("ffn", ffn, "produced"), Axis("ffn", ffn, "consumed")

    def linear(name: str, outputs: tuple[Axis, ...], inputs: tuple[Axis, ...], cut: Cut, bias: bool):
        return _linear(f"blocks.{block}.{name}", outputs, inputs, cut, shape.rank(name), bias, block)

    yield from shape.added_parameters("attention", block)
    for projection in shape.projections(block):
        yield from linear(f"attention.{projection}", heads_out, (hidden_in,), "output", shape.attention_bias)
    yield from linear("attention.output", (hidden_out,), heads_in, "input", shape.attention_bias)
    if shape.normalises_attention(block):
        yield from _norm(shape, f"blocks.{block}.attention.norm", hidden_out, block)
    yield from shape.added_parameters("feedforward", block)
    for projection in shape.inner_projections:
        yield from linear(f"feedforward.{projection}", (ffn_out,), (hidden_in,), "output", shape.ffn_bias)
    yield from linear("feedforward.output", (hidden_out,), (ffn_in,), "input", shape.ffn_bias)
    yield from _norm(shape, f"blocks.{block}.feedforward.norm", hidden_out, block)


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


def _norm(shape: Shape, name: str, axis: Axis, block: int | None = None) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{name}.weight", (axis,), decay=False, init="ones", block=block)
    if shape.norm_bias:
        yield ParameterSpec(f"{name}.bias", (axis,), decay=False, init="zeros", block=block)
