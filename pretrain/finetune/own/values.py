"""Cells to names of classes, numbers and lists."""

import json
import math
from typing import Any

from model.errors import UserError

NO_NUMBER = {"", "na", "n/a", "nan", "null", "none"}
"""Where a number is missing, as other programs write it."""


def is_missing(cell: Any) -> bool:
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip())
    )


def as_name(cell: Any) -> str:
    """A class: 1, "1" and 1.0 (a whole number in a column where some are missing) are one."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()


def in_order(names: set[str]) -> tuple[str, ...]:
    """Classes by number where all are numbers, else by the alphabet."""
    if all(name.lstrip("-").isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def as_number(cell: Any, where: str) -> float | None:
    """None where it is missing. Raises UserError if the text is not a finite number."""
    if is_missing(cell) or (isinstance(cell, str) and cell.strip().lower() in NO_NUMBER):
        return None
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise UserError(f"{where}: label {cell!r} is not a number; write it like 3.5, or use --task classify")
    return number


def as_list(cell: Any, where: str) -> list[Any]:
    """A list, also as JSON in a text, or a text whose blanks divide it. Raises UserError for anything else."""
    if isinstance(cell, str):
        if not cell.lstrip().startswith("["):
            return cell.split()
        try:
            cell = json.loads(cell)
        except ValueError:
            raise UserError(
                f'{where}: {cell[:40]!r} is not a JSON list; write ["a", "b"], or words with blanks'
            ) from None
    if not isinstance(cell, list):
        raise UserError(f"{where}: {str(cell)[:40]!r} is not a list; give a list of words and one of their tags")
    return cell
