"""Where a sentence ends: punctuation, then a blank, then something that can open a sentence; or a blank line."""

import re
from collections.abc import Iterator
from itertools import pairwise

_CANDIDATE = re.compile(
    r"""[.!?] ["')\]”’]{0,2} \s+ (?=["'(\[“‘]*[^\W_a-z])"""  # ... end." Next
    r"|\n \s* \n"
    r"|[。！？]",  # scripts without blanks
    re.VERBOSE,
)
_LAST_WORD = re.compile(r"\w+(?:\.\w+)*\Z")
_ABBREVIATIONS = frozenset("Mr Mrs Ms Dr St Jr Sr Gen Col Lt Sen Rep Gov No vs etc e.g i.e".split())  # noqa: SIM905
_LONGEST_ABBREVIATION = 12


def split_sentences(text: str) -> list[str]:
    """The sentences of a document, stripped, none empty. Joined again they are the text up to white space."""
    ends = [0, *_ends(text), len(text)]
    sentences = (text[begin:end].strip() for begin, end in pairwise(ends))
    return [sentence for sentence in sentences if sentence]


def _ends(text: str) -> Iterator[int]:
    for candidate in _CANDIDATE.finditer(text):
        mark = candidate.start()
        if text[mark] != "." or not _is_abbreviated(text, mark):
            yield candidate.end()


def _is_abbreviated(text: str, dot: int) -> bool:
    """Whether the dot follows an initial ("W.", "U.S.") or a known abbreviation."""
    word = _LAST_WORD.search(text, max(0, dot - _LONGEST_ABBREVIATION), dot)
    if not word:
        return False
    last = word.group().rpartition(".")[2]
    return word.group() in _ABBREVIATIONS or (len(last) == 1 and last.isupper())
