"""The types of values in a recipe: counts, shares, numbers, and sections that refuse unknown keys."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from model.errors import UserError


@dataclass(frozen=True)
class Share:
    """A share of the run, of its model or of its row length, written `28%` in a recipe."""

    percent: float

    def __str__(self) -> str:
        return f"{self.percent:g}%"


def parse_share(value: Any) -> Share | None:
    """`28%` -> Share(28); None for what is not a share. Raises UserError for `120%`."""
    if isinstance(value, Share):
        return value
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return None
    try:
        percent = float(value.strip()[:-1])
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:
        raise UserError(f"{value!r} is not a share from 0% to 100%")
    return Share(percent)


def _parse_amount(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    share = parse_share(value)
    if share is None:
        raise UserError(f"{value!r} is neither a count from 0 nor a share from 0% to 100%")
    return share


def _as_written(value: Any) -> Any:
    return str(value) if isinstance(value, Share) else value


Amount = Annotated[int | Share, BeforeValidator(_parse_amount), PlainSerializer(_as_written)]
"""Steps, as a count or as a share of the whole run."""


def _parse_positive_amount(value: Any) -> Any:
    amount = _parse_amount(value)
    if amount in (0, Share(0)):
        raise UserError(f"{value!r} is neither a count from 1 nor a share above 0%")
    return amount


PositiveAmount = Annotated[int | Share, BeforeValidator(_parse_positive_amount), PlainSerializer(_as_written)]
"""Steps or tokens in a row, at least one, as a count or as a share of the run's."""


def _parse_hours(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    if isinstance(value, (str, Share)):
        return _parse_amount(value)
    raise UserError(f"{value!r} is neither a number of hours nor a share such as 10%")


Hours = Annotated[float | Share, BeforeValidator(_parse_hours), PlainSerializer(_as_written)]
"""Hours of training, as a number or as a share of the run's budget."""

SECONDS_PER_HOUR = 3600

Positive = Annotated[int, Field(ge=1)]

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""Strict: text and `true` are refused."""

Rate = Annotated[Number, Field(ge=0, lt=1)]

Part = TypeVar("Part", bound=BaseModel)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, populate_by_name=True)

    def only(self, part: type[Part]) -> Part:
        """The keys of another section that this one has, too, with the values they have here."""
        return part.model_construct(**{name: getattr(self, name) for name in part.model_fields})
