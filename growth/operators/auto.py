"""`grow: auto` chooses operators from the target shape alone. Each change goes to the operator that preserves most, in
this order:

    the first layers of all     fresh_layers
    units that fade in          unmask
    low rank -> full            densify
    kernel attention            softmax_attention
    light layers                own_maps
    slimming coefficients       fold_slimming, after pruning by them
    sharing                     unshare where blocks split, share where they merge
    hidden or layers shrink     coalesce, and heads and FFN with them
    more layers                 stack
    wider hidden, heads, FFN    widen; mask_growth where hidden is not a multiple
    fewer heads, neurons        prune_heads, prune_neurons
    more positions              lengthen
    pooled input                unpool
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from growth.operators.base import Operator
from growth.operators.coalesce import Coalesce
from growth.operators.densify import Densify
from growth.operators.fold_slimming import FoldSlimming
from growth.operators.fresh_layers import FreshLayers
from growth.operators.lengthen import Lengthen
from growth.operators.mask_growth import MaskGrowth
from growth.operators.own_maps import OwnMaps
from growth.operators.prune import PruneHeads, PruneNeurons
from growth.operators.share import Share
from growth.operators.softmax_attention import SoftmaxAttention
from growth.operators.stack import Stack
from growth.operators.unmask import Unmask
from growth.operators.unpool import Unpool
from growth.operators.unshare import Unshare
from growth.operators.widen import Widen
from growth.partial_shape import PartialShape
from model.config import BertConfig

Needed = Callable[[BertConfig, BertConfig], bool]
"""Whether an operator is needed between the current shape and the final one."""


def default_operators(source: BertConfig, wanted: Mapping[str, Any], noise: float | None = None) -> list[Operator]:
    """The operators, with default options but for the `noise` of widen, that lead from a shape to the wanted fields."""
    wanted = PartialShape(wanted)
    final = source.replace(**wanted)
    shape, chosen = source, []
    for operator, needed in _CHOICES:
        if needed(shape, final):
            chosen.append(Widen(noise=noise) if operator is Widen else operator())
            shape = chosen[-1].target(shape, wanted.limited_to(operator.changes))
    return chosen


def _merges(shape: BertConfig, final: BertConfig) -> bool:
    return shape.replace(sharing=final.sharing).num_blocks < shape.num_blocks if _regroups(shape, final) else False


def _splits(shape: BertConfig, final: BertConfig) -> bool:
    return shape.replace(sharing=final.sharing).num_blocks > shape.num_blocks if _regroups(shape, final) else False


def _regroups(shape: BertConfig, final: BertConfig) -> bool:
    """A list of blocks is for the final layers; it can only be compared once there are that many."""
    return not isinstance(final.sharing, tuple) or len(final.sharing) == shape.layers


def _widths(shape: BertConfig, final: BertConfig, field: str) -> Iterator[tuple[int, int]]:
    """Old and new width of every layer."""
    if shape.layers == final.layers:
        yield from ((shape.layer_width(field, layer), final.layer_width(field, layer)) for layer in range(shape.layers))


def _grows(shape: BertConfig, final: BertConfig) -> bool:
    wider = any(new > old for field in ("heads", "ffn") for old, new in _widths(shape, final, field))
    return wider or final.embedding_width > shape.embedding_width or final.hidden > shape.hidden


def _fades_in(shape: BertConfig, final: BertConfig) -> bool:
    return final.hidden > shape.hidden and final.hidden % shape.hidden > 0


_CHOICES: list[tuple[type[Operator], Needed]] = [
    (FreshLayers, lambda shape, final: final.layers > shape.layers == 0),
    (Unmask, lambda shape, final: shape.masked is not None),
    (Densify, lambda shape, final: final.low_rank != shape.low_rank),
    (SoftmaxAttention, lambda shape, final: final.attention != shape.attention),
    (OwnMaps, lambda shape, final: final.light_layers != shape.light_layers and final.layers == shape.layers),
    (Unshare, _splits),
    (Share, _merges),
    (Coalesce, lambda shape, final: final.hidden < shape.hidden or final.layers < shape.layers),
    (Stack, lambda shape, final: final.layers > shape.layers),
    (MaskGrowth, _fades_in),
    (Widen, _grows),
    (PruneHeads, lambda shape, final: any(new < old for old, new in _widths(shape, final, "heads"))),
    (PruneNeurons, lambda shape, final: any(new < old for old, new in _widths(shape, final, "ffn"))),
    (FoldSlimming, lambda shape, final: final.slimming is None and shape.slimming is not None),
    (Lengthen, lambda shape, final: final.max_positions > shape.max_positions),
    (Unpool, lambda shape, final: final.pool_window < shape.pool_window),
]
