"""Operators from their names and options in a recipe or on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from growth.operators import OPERATORS, default_operators, make_operator
from growth.operators.base import Operator
from growth.operators.widen import Widen
from model.config import BertConfig
from model.errors import UserError
from pretrain.recipe.load import explained

AUTO = "auto"


def read_operators(
    grow: Sequence[Mapping[str, Mapping[str, Any]]], source: BertConfig, wanted: Mapping[str, Any]
) -> tuple[Operator, ...]:
    """`[{stack: {}}, {widen: {axis: ffn}}]` -> operators. `[{auto: {}}]`: those that lead to the wanted shape by
    default. Its one option is the `noise` of widen."""
    named = [(name, options or {}) for mapping in grow for name, options in mapping.items()]
    if any(name == AUTO for name, _ in named):
        if len(named) > 1 or named[0][1].keys() - {"noise"}:
            raise UserError(
                "grow auto cannot be combined with operators or options other than noise; name the operators instead"
            )
        with explained(Widen, section=f"grow.{AUTO}"):
            return tuple(default_operators(source, wanted, **named[0][1]))
    operators = []
    for name, options in named:
        with explained(OPERATORS.get(name, Operator), section=f"grow.{name}"):
            operators.append(make_operator(name, options))
    return tuple(operators)
