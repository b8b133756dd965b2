"""Shapes that contradict themselves, and variants that do not go together: each with the reason."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.config import BertConfig


def contradictions(config: "BertConfig") -> Iterator[str]:
    """What is wrong with a shape, one line each; nothing for a good one."""
    yield from _lists(config)
    yield from _shared_blocks(config)
    yield from _low_rank(config)
    yield from _attention(config)
    yield from _frozen(config)
    yield from _layer_drop(config)
    yield from _sub_models(config)
    yield from _masked(config)
    yield from _pooled(config)


def _lists(config: "BertConfig") -> Iterator[str]:
    if not config.head_dim:
        yield f"hidden {config.hidden} is not a multiple of heads {config.heads}; give head_dim or other heads"
    for field in ("heads", "ffn", "sharing"):
        values = getattr(config, field)
        if isinstance(values, tuple) and len(values) != config.layers:
            yield f"{field} lists {len(values)} values for {config.layers} layers; give one each, or one number"
    sharing = config.sharing
    if isinstance(sharing, tuple) and sorted(set(sharing)) != list(range(max(sharing) + 1)):
        yield f"sharing {list(sharing)} skips a block; number the blocks 0, 1, 2, ... without gaps"


def _shared_blocks(config: "BertConfig") -> Iterator[str]:
    """Layers of one block must be of one kind."""
    for layer in range(config.layers):
        first = config.layers_of(config.block_of(layer))[0]
        kinds = {
            "heads": config.layer_width("heads", layer) == config.layer_width("heads", first),
            "ffn": config.layer_width("ffn", layer) == config.layer_width("ffn", first),
            "light_layers": (layer in config.light_layers) == (first in config.light_layers),
            "frozen_layers": (layer < config.frozen_layers) == (first < config.frozen_layers),
        }
        for field, equal in kinds.items():
            if not equal:
                yield (
                    f"layers {first} and {layer} share a block but {field} {getattr(config, field)} tells them apart; "
                    "treat them alike or give them separate blocks"
                )


def _low_rank(config: "BertConfig") -> Iterator[str]:
    for name, rank in config.low_rank:
        full = min(min(config.linear_shape(name, block)) for block in range(config.num_blocks))
        if rank >= full:
            yield f"low_rank.{name} {rank} is not below the full rank {full}; choose a smaller one or leave it out"


def _attention(config: "BertConfig") -> Iterator[str]:
    if config.attention_init == "neighbours":
        if config.position_init != "sinusoidal":
            yield (
                f"attention_init neighbours finds them by sinusoids; set position_init sinusoidal "
                f"(it is {config.position_init})"
            )
        if config.embedding_size or config.hidden % 2:
            yield (
                "attention_init neighbours needs positions of the model's own width, an even one, not "
                f"{config.embedding_width}; leave out embedding_size, or take aligned"
            )
    if config.attention_init != "independent" and (config.rank("attention.query") or config.rank("attention.key")):
        yield (
            f"attention_init {config.attention_init} sets whole query and key projections, and low_rank cuts them into "
            "factors; take independent, or leave these two out of low_rank"
        )
    if config.attention != "softmax":
        if config.attention_dropout:
            yield (
                f"attention {config.attention} has no probabilities to drop out; "
                f"set attention_dropout 0 (it is {config.attention_dropout})"
            )
        if config.light_layers:
            yield f"light_layers reuse an attention map, and attention {config.attention} has none; use softmax"
    if config.kernel_features and config.attention != "favor":
        yield f"kernel_features {config.kernel_features} is for attention favor, not {config.attention}; leave it out"
    for layer in config.light_layers:
        if layer >= config.layers:
            yield f"light_layers names layer {layer}, but the last of {config.layers} layers is {config.layers - 1}"
        elif config.layer_width("heads", layer) != config.layer_width("heads", layer - 1):
            yield (
                f"light layer {layer} has {config.layer_width('heads', layer)} heads and the layer below "
                f"{config.layer_width('heads', layer - 1)}, but it reuses the attention map; give them the same number"
            )


def _frozen(config: "BertConfig") -> Iterator[str]:
    if config.frozen_layers >= config.layers:
        yield f"frozen_layers {config.frozen_layers} leaves none of {config.layers} layers to train; freeze fewer"


def _layer_drop(config: "BertConfig") -> Iterator[str]:
    if not config.layer_drop:
        return
    if config.norm != "pre":
        yield "layer_drop needs norm pre: with norm post a skipped layer changes the scale of what the next one sees"
    if config.light_layers:
        yield "layer_drop could skip a layer whose attention map light_layers reuse; leave one of them out"
    if config.masked and config.masked.layers:
        yield "layer_drop and masked.layers both decide how much of a layer counts; leave one of them out"


def _sub_models(config: "BertConfig") -> Iterator[str]:
    if not config.sub_models:
        return
    if config.layers % config.sub_models:
        yield f"sub_models {config.sub_models} does not divide the {config.layers} layers; choose a divisor"
    others = {
        "frozen_layers": config.frozen_layers > 0,
        "layer_drop": config.layer_drop is not None,
        "light_layers": bool(config.light_layers),
        "masked.layers": config.masked is not None and bool(config.masked.layers),
        "pool_window": config.pool_window > 1,
    }
    for field, is_set in others.items():
        if is_set:
            yield f"sub_models and {field} both decide how a layer runs; leave one of them out"


def _masked(config: "BertConfig") -> Iterator[str]:
    masked = config.masked
    if not masked:
        return
    if not (masked.hidden or masked.heads or masked.ffn or masked.layers):
        yield "masked names no axis with new units; give hidden, heads, ffn or layers, or leave it out"
    if masked.layers and config.light_layers:
        yield "masked.layers and light_layers do not go together: a map cannot come from a layer that fades in"
    if any(layer >= config.layers for layer in masked.layers) or len(set(masked.layers)) == config.layers:
        yield f"masked.layers {list(masked.layers)} has to name some, not all, of the layers 0 to {config.layers - 1}"
    if masked.hidden and masked.hidden > config.hidden:
        yield f"masked.hidden {masked.hidden} counts the old units and cannot be above hidden {config.hidden}"
    for axis in ("heads", "ffn"):
        old = getattr(masked, axis)
        if isinstance(old, tuple) and len(old) != config.layers:
            yield f"masked.{axis} lists {len(old)} values for {config.layers} layers; give one each, or one number"
            return
        for layer in range(config.layers):
            width = config.layer_width(axis, layer)
            if old and (count := old[layer] if isinstance(old, tuple) else old) > width:
                yield f"masked.{axis} {count} counts the old units and cannot be above layer {layer}'s {width}"


def _pooled(config: "BertConfig") -> Iterator[str]:
    if config.pool_window == 1:
        return
    window = f"pool_window {config.pool_window}"
    if config.attention != "softmax":
        yield f"{window} needs attention softmax: its first layer has more keys than queries; it is {config.attention}"
    if config.light_layers:
        yield f"{window} and light_layers do not go together: the first layer's attention map has another shape"
    if config.layer_drop:
        yield f"{window} and layer_drop do not go together: without the first layer nothing is pooled"
    if config.masked and config.masked.layers:
        yield f"{window} and masked.layers do not go together; unpool the input before layers fade in"
