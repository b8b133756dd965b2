"""The list of operators, and how several of them lead from one shape to another."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from growth.change import ShapeChange, identity
from growth.operators.append_top import AppendTop
from growth.operators.auto import default_operators
from growth.operators.base import Inputs, Operator
from growth.operators.coalesce import Coalesce
from growth.operators.decoalesce import Decoalesce
from growth.operators.densify import Densify
from growth.operators.fold_slimming import FoldSlimming
from growth.operators.fresh_layers import FreshLayers
from growth.operators.identity_layers import IdentityLayers
from growth.operators.interleave import Interleave
from growth.operators.interpolate import Interpolate
from growth.operators.lengthen import Lengthen
from growth.operators.ligo import Ligo
from growth.operators.mask_growth import MaskGrowth
from growth.operators.own_maps import OwnMaps
from growth.operators.prune import PruneHeads, PruneNeurons
from growth.operators.rewind import Rewind
from growth.operators.share import Share
from growth.operators.softmax_attention import SoftmaxAttention
from growth.operators.stack import Stack
from growth.operators.tile_center import TileCenter
from growth.operators.tile_ffn import TileFfn
from growth.operators.unmask import Unmask
from growth.operators.unpool import Unpool
from growth.operators.unshare import Unshare
from growth.operators.widen import Widen
from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.errors import UserError, nearest
from model.fields import Flag
from model.registry import takes

OPERATORS: dict[str, type[Operator]] = {
    operator.name: operator
    for operator in (
        Stack, Interleave, AppendTop, IdentityLayers, FreshLayers,
        Widen, TileFfn, TileCenter, Ligo, MaskGrowth, Unmask, Lengthen, Unpool,
        Unshare, Share,
        Densify, SoftmaxAttention, OwnMaps,
        PruneHeads, PruneNeurons, FoldSlimming,
        Coalesce, Decoalesce, Interpolate, Rewind,
    )
}  # fmt: skip


@takes(Operator)
def _add(operator: type[Operator]) -> None:
    if operator.name in OPERATORS:
        raise UserError(f"an operator {operator.name} is there already; give {operator.__name__} another name")
    OPERATORS[operator.name] = operator


__all__ = ["OPERATORS", "default_operators", "make_operator", "shape_change", "shapes"]


def make_operator(name: str, options: Mapping[str, Any]) -> Operator:
    if name not in OPERATORS:
        raise UserError(f"grow {name!r} is unknown{nearest(name, OPERATORS)}; choose from {', '.join(OPERATORS)}")
    return OPERATORS[name](**options)


def shapes(source: BertConfig, operators: Sequence[Operator], wanted: Mapping[str, Any]) -> list[BertConfig]:
    """The shape before, after each operator, and at the end (with the free fields).

    Raises UserError if the operators do not lead to the wanted shape, naming a field and an operator that changes it.
    """
    wanted, steps = PartialShape(wanted), [source]
    for operator in operators:
        if steps[-1].unfinished and not operator.finishes:
            first = " or ".join(other.name for other in OPERATORS.values() if other.finishes)
            raise UserError(f"grow {operator.name}: {steps[-1].unfinished}; put {first} before it")
        steps.append(_target(operator, steps[-1], wanted))
    reached = steps[-1]
    final = reached.replace(**wanted)
    for name in BertConfig.model_fields:
        if name not in BertConfig.fields_with(Flag.FREE) and getattr(final, name) != getattr(reached, name):
            able = [operator.name for operator in OPERATORS.values() if _reaches(operator, reached, name, final)]
            advice = f"add {' or '.join(able)} to grow" if able else "no operator changes it, so leave it as it is"
            raise UserError(
                f"{name} {getattr(reached, name)} -> {getattr(final, name)} is not reached by grow; {advice}"
            )
    return [*steps, final]


def _target(operator: Operator, source: BertConfig, wanted: PartialShape) -> BertConfig:
    if not source.layers and not operator.takes_no_layers:
        first = " or ".join(other.name for other in OPERATORS.values() if other.takes_no_layers)
        raise UserError(f"grow {operator.name}: the model has 0 layers, none to work on; put {first} before it")
    return operator.target(source, wanted.limited_to(operator.changes))


def _reaches(operator: type[Operator], source: BertConfig, field: str, target: BertConfig) -> bool:
    """Whether an operator with default options brings one field to its target."""
    if field not in operator.changes:
        return False
    wanted = getattr(target, field)
    try:
        return getattr(_target(operator(), source, PartialShape({field: wanted})), field) == wanted
    except UserError:
        return False


def shape_change(
    source: BertConfig,
    operators: Sequence[Operator],
    wanted: Mapping[str, Any],
    inputs: Inputs = Inputs(),  # noqa: B008
) -> ShapeChange:
    """All operators as one change. `inputs` belong to `source`; each operator gets the state that it starts from.

    The shape reached is the last of `shapes`, except where an operator leaves widths to the state.
    """
    shapes(source, operators, wanted)
    change, wanted = identity(source), PartialShape(wanted)
    for operator in operators:
        before, own = change.target, replace(inputs, fetch=partial(change.record, fetch=inputs.fetch))
        wanted |= operator.settled(before, wanted.limited_to(operator.changes), own)
        after = operator.target(before, wanted.limited_to(operator.changes))
        change = change.then(operator.change(before, after, own))
    return change.then(identity(change.target, change.target.replace(**wanted)))
