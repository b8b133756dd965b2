"""What each part of the model computes and moves in a step on one rank: what `profile` sets against the time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.parameters import ParameterSpec, parameter_table
from model.shape import Shape
from pretrain.cost.flops import encoder_flops, layer_terms, prediction_flops, sentence_flops

if TYPE_CHECKING:
    from pretrain.recipe import ResolvedStage

BACKWARD = 2
"""The backward pass computes and moves twice what the forward pass does."""

HEADS = ("mlm", "pooler", "sentence")


@dataclass(frozen=True)
class Work:
    """Of a forward pass over all micro-batches of a step. Padding counts: it is computed."""

    flops: float
    bytes: float
    """The least: weights read once a micro-batch, and each tensor that the backward pass needs written once."""


def module_work(stage: ResolvedStage, on_cpu: bool) -> dict[str, Work]:
    """By the last part of a module's name: embeddings, attention, feedforward, the block of both, mlm and pooler."""
    shape, length = stage.config, stage.sequence
    rows = stage.global_batch / stage.data_parallel
    predictions = length * stage.predicted_share
    flops: dict[str, float] = defaultdict(float)
    kept: dict[str, float] = defaultdict(float)  # elements
    for layer in range(shape.layers):
        block, share = shape.block_of(layer), shape.run_share(layer)
        for term, count in layer_terms(shape, layer, length, predictions).items():
            flops[term.partition(".")[0]] += share * rows * count
        queries, keys = shape.num_tokens(layer, length, predictions)
        mixing = shape.mixing_elements(block, shape.mapped_keys(layer, keys), on_cpu)
        kept["attention"] += share * rows * queries * (2 * shape.hidden + mixing)
        kept["feedforward"] += share * rows * queries * (2 * shape.hidden + shape.inner_elements(block))
    flops["embeddings"] = rows * (encoder_flops(shape, length, predictions) - _layers_flops(shape, length, predictions))
    flops["mlm"] = rows * predictions * prediction_flops(shape)
    flops["pooler"] = rows * sentence_flops(shape)
    kept["embeddings"] = rows * length * shape.embedding_width
    kept["mlm"] = rows * predictions * (2 * shape.embedding_width + shape.padded_vocab_size)
    kept["pooler"] = rows * 2 * shape.hidden
    for kind in (flops, kept, weights := _weights(shape)):
        kind["block"] = kind["attention"] + kind["feedforward"]  # where they are compiled together
    element, tensor_parallel = 4 if stage.precision == "fp32" else 2, stage.tensor_parallel
    return {
        name: Work(
            flops[name] / tensor_parallel,
            element * (kept[name] + stage.accumulation * weights[name]) / tensor_parallel,
        )
        for name in kept
    }


def _layers_flops(shape: Shape, length: int, predictions: float) -> float:
    terms = (layer_terms(shape, layer, length, predictions).values() for layer in range(shape.layers))
    return sum(sum(each) * shape.run_share(layer) for layer, each in enumerate(terms))


def _weights(shape: Shape) -> dict[str, float]:
    """Elements, a shared block as often as it is used. The head reads the word table, the embeddings a row of it."""
    weights: dict[str, float] = defaultdict(float)
    for spec in parameter_table(shape).values():
        uses = 1 if spec.block is None else len(shape.layers_of(spec.block))
        weights[_module(spec)] += uses * spec.numel
    return weights


def _module(spec: ParameterSpec) -> str:
    if spec.name == "embeddings.word.weight":
        return "mlm"
    names = spec.name.split(".")
    return next((name for name in names if name in ("embeddings", "attention", "feedforward", *HEADS)), "")
