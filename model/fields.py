"""What the fields of a shape are made of: their types, and what other rooms need to know of a field."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Strength = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Flag(Enum):
    """Marks a field in its annotation: `Annotated[int, Flag.FREE]`. `BertConfig.fields_with(flag)` lists them."""

    FREE = "No parameter depends on it: a stage may change it without a growth operator."
    PLAIN_AT_EXPORT = "A plain BERT computes the same function: an export sets the field to its default."
    NOT_IN_TARGET = "A way to train, not a part of the model that comes out: its costs are not those of the target."


@dataclass(frozen=True)
class ShareOf:
    """Marks a field that a recipe may give as a share (25%) of another field of the whole model."""

    field: str
    spread: bool = False
    """Not a count: a list of as many layers, at even distances."""


class Settings(BaseModel):
    """The value of a field that takes more than one number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __str__(self) -> str:
        """What differs from the defaults, in the words of a recipe."""
        changed = self.model_dump(exclude_defaults=True)
        return f"({', '.join(f'{name} {value}' for name, value in changed.items())})" if changed else "on"
