"""The shape that a stage asks for: fields of BertConfig, as values or as shares of the run's model.

The fields and their types are BertConfig's own. Only what a recipe sets is kept and written back, because a field that
is absent keeps the value it had in the stage before.
"""

import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, InstanceOf, create_model, model_serializer

from growth.partial_shape import PartialShape
from model.config import BertConfig
from model.registry import takes
from model.shape import Shape
from pretrain.recipe.shares import SHARES, counted
from pretrain.settings.joined import join
from pretrain.settings.values import Section, Share, parse_share


def _or_share(annotation: Any) -> Any:
    return Annotated[annotation | InstanceOf[Share], BeforeValidator(lambda value: parse_share(value) or value)]


def _request_fields() -> Iterator[tuple[str, Any]]:
    """Every field of BertConfig, optional; a list of pairs may also be a mapping, and some take shares."""
    for name, field in BertConfig.model_fields.items():
        annotation: Any = field.annotation
        for mark in field.metadata:
            annotation = Annotated[annotation, mark]
        in_list = typing.get_args(field.annotation)[:1]
        if typing.get_origin(field.annotation) is tuple and typing.get_origin(in_list[0]) is tuple:
            key, value = typing.get_args(in_list[0])
            value = _or_share(value) if name in SHARES else value
            annotation = dict[key, value] | annotation  # type: ignore[valid-type]
        if name in SHARES:
            annotation = _or_share(annotation)
        yield name, (annotation | None, None)


_Fields = create_model("_Fields", __base__=Section, **dict(_request_fields()))


class ShapeRequest(_Fields):
    @property
    def asked(self) -> dict[str, Any]:
        """The fields that the recipe sets."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def counted(self, model: Mapping[str, Any]) -> PartialShape:
        """With every share as a count; `model` holds the fields of the run's model."""
        return PartialShape(counted(self.asked, model))

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {name: _written(value) for name, value in self.asked.items()}


@takes(Shape)
def _add(variant: type[Shape]) -> None:
    join(ShapeRequest, {name: key for name, key in _request_fields() if name not in ShapeRequest.model_fields})


def _written(value: Any) -> Any:
    """A value as a recipe has it."""
    if isinstance(value, Share):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, dict):
        return {name: _written(item) for name, item in value.items()}
    return [_written(item) for item in value] if isinstance(value, list | tuple) else value
