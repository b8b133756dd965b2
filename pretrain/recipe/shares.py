"""Shares as counts: of the run's model in a shape (`layers: 25%`), of its row length, of its steps in an option."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from model.config import PRESETS, BertConfig
from model.errors import UserError
from model.fields import ShareOf
from model.registry import takes
from model.shape import Shape
from pretrain.settings.values import Share, parse_share


def _shares(shape: type[Shape]) -> dict[str, ShareOf]:
    fields = shape.model_fields.items()
    return {name: mark for name, field in fields for mark in field.metadata if isinstance(mark, ShareOf)}


SHARES = _shares(BertConfig)
"""Fields of BertConfig that may be given as a share, each with the field of the run's model that it is a share of."""


@takes(Shape)
def _add(variant: type[Shape]) -> None:
    SHARES.update(_shares(variant))


def whole_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a recipe sets in its model, the preset's included, with shares as counts."""
    values = dict(model)
    if (preset := values.pop("preset", None)) is not None:
        values = {**BertConfig.preset(preset).model_dump(include=set(PRESETS[preset])), **values}
    return counted(values, values, section="model")


def counted(shape: Mapping[str, Any], model: Mapping[str, Any], section: str = "shape") -> dict[str, Any]:
    """The fields of a shape with every share as a count. `model` has the whole counts; `section` is the recipe's key.

    Halves are rounded up, and counts are at least 1, but for 0%.
    A share of `light_layers` is spread evenly: 50% is every other layer.
    """
    return {field: _count(field, value, model, f"{section}.{field}") for field, value in shape.items()}


def _count(field: str, value: Any, model: Mapping[str, Any], key: str) -> Any:
    if isinstance(value, Mapping) and field in SHARES:
        return {name: _count(field, part, model, f"{key}.{name}") for name, part in value.items()}
    share = _share(value, key)
    if share is None:
        return value
    if field not in SHARES:
        raise UserError(f"{key} is {str(value)!r}; only {', '.join(SHARES)} take shares; give a value")
    whole = model.get(SHARES[field].field)
    if not isinstance(whole, int):
        raise UserError(
            f"{key} is {str(value)!r}, a share of model.{SHARES[field].field}, which is {whole!r} and not a number; "
            "give a count"
        )
    part = share.percent / 100
    if SHARES[field].spread:
        if part == 1:
            raise UserError(f"{key} is {str(value)!r}, but the lowest layer has to be left out; give a smaller share")
        return [layer for layer in range(whole) if math.floor((layer + 1) * part) > math.floor(layer * part)]
    return max(math.floor(part * whole + 0.5), 1) if part else 0


def row_length(asked: int | Share | None, whole: int) -> int | None:
    """Tokens per row, from a count or a share of the run's; None: the stage asks for none."""
    return max(round(asked.percent / 100 * whole), 1) if isinstance(asked, Share) else asked


def counted_steps(grow: Sequence[Mapping[str, Mapping[str, Any]]], steps: float | None) -> list[dict[str, Any]]:
    """Operators with their option `steps` as a count. `steps`: of the run; None: it is measured in hours."""

    def option(operator: str, name: str, value: Any) -> Any:
        share = _share(value, f"grow.{operator}.steps") if name == "steps" else None
        if share is None:
            return value
        if steps is None:
            raise UserError(f"grow: steps {value} is a share, but this run is measured in hours; give a count of steps")
        return max(round(share.percent / 100 * steps), 1)

    return [
        {operator: {name: option(operator, name, value) for name, value in (options or {}).items()}}
        for mapping in grow
        for operator, options in mapping.items()
    ]


def _share(value: Any, key: str) -> Share | None:
    try:
        return parse_share(value)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
