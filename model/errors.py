"""Errors that a user can fix: one line each, no traceback."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_LINE, LONGEST_END = 1500, 300
"""Characters of a message, and of its end, which says what to do."""


class UserError(ValueError):
    """Names the thing, the value, what is allowed and what to do, in one line. The command line exits with code 2."""


def one_line(error: Exception) -> str:
    """The message as a terminal may show it, whatever of the user's it quotes: no line breaks, no control characters,
    not too long."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda sign: ascii(sign.group())[1:-1], str(error))
    if len(text) <= LONGEST_LINE:
        return text
    return f"{text[: LONGEST_LINE - LONGEST_END - 5]} ... {text[-LONGEST_END:]}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """' (did you mean X?)' when a choice looks like `word`, otherwise ''."""
    matches = get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
