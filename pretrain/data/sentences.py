"""Where a sentence ends: punctuation, then a blank, then something that can open a sentence; or a blank line."""

import re

_ABBREVIATIONS = r"Mr Mrs Ms Dr St Jr Sr Gen Col Lt Sen Rep Gov No vs etc e\.g i\.e"
_NOT_ABBREVIATED = "".join(rf"(?<!\b{word}\.)" for word in _ABBREVIATIONS.split(" ")) + r"(?<!\b[A-Z]\.)"
_CLOSERS = r"[\"')\]”’]"
_BOUNDARY = re.compile(
    rf"(?:(?<=[.!?])|(?<=[.!?]{_CLOSERS})|(?<=[.!?]{_CLOSERS}{_CLOSERS})){_NOT_ABBREVIATED}"
    r"\s+(?=[\"'(\[“‘]*[^\W_a-z])"
    r"|\n\s*\n"
    r"|(?<=[。！？])\s*"  # scripts without blanks
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a document, stripped, none empty. Joined again they are the text up to white space."""
    return [sentence for sentence in map(str.strip, _BOUNDARY.split(text)) if sentence]
