"""The operators by name, and how a list of them leads from one shape to another."""

from collections.abc import Mapping, Sequence
from typing import Any

from growth.change import ShapeChange, compose, identity
from growth.operators.base import Correlation, Operator
from growth.operators.stack import Stack
from growth.operators.unshare import Unshare
from model.config import BertConfig
from model.errors import UserError, nearest

OPERATORS: dict[str, type[Operator]] = {operator.name: operator for operator in (Stack, Unshare)}

FREE_FIELDS = ("hidden_dropout", "attention_dropout")
"""Fields of BertConfig that no parameter depends on: any stage may change them."""


def make_operator(name: str, options: Mapping[str, Any]) -> Operator:
    if name not in OPERATORS:
        raise UserError(f"grow {name!r} is unknown{nearest(name, OPERATORS)}; choose from {', '.join(OPERATORS)}")
    return OPERATORS[name](**options)


def shapes(source: BertConfig, operators: Sequence[Operator], wanted: Mapping[str, Any]) -> list[BertConfig]:
    """The shape before, after each operator, and at the end (free fields applied).

    Raises UserError when the operators do not lead to the wanted shape, naming a field and an operator that changes it.
    """
    steps = [source]
    for operator in operators:
        steps.append(operator.target(steps[-1], {name: wanted[name] for name in operator.changes if name in wanted}))
    reached = steps[-1]
    final = reached.replace(**wanted)
    for name in BertConfig.model_fields:
        if name not in FREE_FIELDS and getattr(final, name) != getattr(reached, name):
            able = [operator.name for operator in OPERATORS.values() if name in operator.changes]
            advice = f"add {' or '.join(able)} to grow" if able else "no operator changes it"
            raise UserError(
                f"{name} {getattr(reached, name)} -> {getattr(final, name)} is not reached by grow; {advice}"
            )
    return [*steps, final]


def shape_change(
    source: BertConfig,
    operators: Sequence[Operator],
    wanted: Mapping[str, Any],
    correlation: Correlation | None = None,
) -> ShapeChange:
    """All operators as one change."""
    steps = shapes(source, operators, wanted)
    changes = [
        operator.change(before, after, correlation)
        for operator, before, after in zip(operators, steps, steps[1:], strict=False)
    ]
    return compose([*changes, identity(steps[-2], steps[-1])])
