"""Shapes whose plain fields contradict each other, each with the reason. Those of variants are in their own files."""

from collections.abc import Iterator
from math import prod

from model.parameters import parameter_table
from model.shape import Shape


def contradictions(shape: Shape) -> Iterator[str]:
    """What is wrong with a shape, one line each; nothing for a consistent one."""
    yield from _lists(shape)
    yield from _shared_blocks(shape)
    yield from _low_rank(shape)
    yield from _attention_init(shape)
    yield from _positions(shape)
    yield from _norms(shape)
    yield from shape.contradictions()


def _lists(shape: Shape) -> Iterator[str]:
    yield from shape.idle_without_layers("sharing")
    if not shape.head_dim:
        yield f"hidden {shape.hidden} is not a multiple of heads {shape.heads}; give head_dim or other heads"
    for field in ("heads", "ffn", "sharing"):
        values = getattr(shape, field)
        if isinstance(values, tuple) and (not values or len(values) != shape.layers):
            yield f"{field} lists {len(values)} values for {shape.layers} layers; give one each, or one number"
    sharing = shape.sharing
    if isinstance(sharing, tuple) and sorted(set(sharing)) != list(range(max(sharing) + 1)):
        yield f"sharing {list(sharing)} skips a block; number the blocks 0, 1, 2, ... without gaps"


def _shared_blocks(shape: Shape) -> Iterator[str]:
    """Layers of one block must be of one kind."""
    for layer in range(shape.layers):
        first = shape.layers_of(shape.block_of(layer))[0]
        if first == layer:
            continue
        kind = shape.layer_kind(first)
        for field, value in shape.layer_kind(layer).items():
            if value != kind[field]:
                yield (
                    f"layers {first} and {layer} share a block, but {field} {getattr(shape, field)} makes them "
                    "different; treat them alike or give them separate blocks"
                )


def _low_rank(shape: Shape) -> Iterator[str]:
    if not shape.low_rank:
        return
    specs = parameter_table(shape).values()
    for linear, rank in shape.low_rank:
        ups = (prod(spec.shape[:-1]) for spec in specs if spec.local_name == f"{linear}.up")  # [outputs, rank]
        downs = (prod(spec.shape[1:]) for spec in specs if spec.local_name == f"{linear}.down")  # [rank, inputs]
        sizes = [*ups, *downs]
        if not sizes:
            if shape.layers:  # else the layers are still to come
                yield f"low_rank.{linear} {rank}: this model has no such layer; leave it out"
            continue
        full = min(sizes)
        if rank >= full:
            yield f"low_rank.{linear} {rank} is not below the full rank {full}; choose a smaller one or leave it out"


def _attention_init(shape: Shape) -> Iterator[str]:
    if shape.attention_init == "neighbours":
        if shape.position_init != "sinusoidal":
            yield (
                "attention_init neighbours needs sinusoidal positions; set position_init sinusoidal "
                f"(it is {shape.position_init})"
            )
        if shape.embedding_size or shape.hidden % 2:
            yield (
                "attention_init neighbours needs position embeddings as wide as the model and of even width, not "
                f"{shape.embedding_width}; leave out embedding_size, or take aligned"
            )
    if shape.attention_init != "independent" and (shape.rank("attention.query") or shape.rank("attention.key")):
        yield (
            f"attention_init {shape.attention_init} sets whole query and key projections, and low_rank cuts them into "
            "factors; take independent, or leave these two out of low_rank"
        )


def _positions(shape: Shape) -> Iterator[str]:
    if shape.positions == "learned":
        return
    if shape.position_init != "normal":
        yield (
            f"position_init {shape.position_init} is for a table of positions, which positions {shape.positions} has "
            "not; leave it out"
        )
    if shape.positions == "rotary" and shape.head_dim % 2:
        yield f"positions rotary turns pairs of units, but head_dim {shape.head_dim} is odd; give an even one"


def _norms(shape: Shape) -> Iterator[str]:
    if shape.embedding_norm and shape.norm == "post":
        yield "embedding_norm is for norm pre: with norm post the embeddings have one already; leave it out"
    if not shape.first_norm and not shape.embedding_norm:
        yield (
            "first_norm false leaves the first layer's input without a norm; set norm pre and embedding_norm true, or "
            "leave it out"
        )
