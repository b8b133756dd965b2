"""Errors that a user can fix: one line each, no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Names the thing, the value, what is allowed and what to do, in one line. The command line exits with code 2."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """' (did you mean X?)' when a choice looks like `word`, otherwise ''."""
    matches = get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
