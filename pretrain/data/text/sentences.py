"""Where a sentence ends: at its marks, by the rules of its language (the library `sentencex`), or at the end of a line.

`sentencex` knows the marks of every script in Unicode, and the abbreviations of some thirty languages. It needs no
model. Three things are added here: a blank line ends a sentence, lines without a mark are sentences, and a long
paragraph is read piece by piece, since the library's time may grow with the square of its length.
"""

import re
import unicodedata
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain

import numpy as np

AUTO = "auto"
"""As a language: that of the script which most letters of the document are of."""
_BLANK_LINE = re.compile(r"\n\s*\n")
_OTHER_MARKS = "។៕།༎፡"
"""Khmer's and Tibetan's, and Ethiopic's typed as two word separators: no sentence ends to Unicode."""
_OTHER_ENDS = re.compile(r"(?<=[។៕])|(?<=[།༎])(?=\s)|(?<=፡፡)")
_PIECE_LENGTH = 5_000  # characters

_SAMPLE_LENGTH = 1_000
"""Characters at the beginning of a document that tell its script."""
_SCRIPTS = sorted(
    [
        (0x0041, 0x024F, "en"),  # Latin
        (0x0370, 0x03FF, "el"),
        (0x1F00, 0x1FFF, "el"),
        (0x0400, 0x052F, "ru"),  # Cyrillic
        (0x0530, 0x058F, "hy"),
        (0x0600, 0x06FF, "ar"),
        (0x0750, 0x077F, "ar"),
        (0x0900, 0x097F, "hi"),  # Devanagari
        (0x0980, 0x09FF, "bn"),
        (0x0A00, 0x0A7F, "pa"),
        (0x0A80, 0x0AFF, "gu"),
        (0x0B80, 0x0BFF, "ta"),
        (0x0C00, 0x0C7F, "te"),
        (0x0C80, 0x0CFF, "kn"),
        (0x0D00, 0x0D7F, "ml"),
        (0x1000, 0x109F, "my"),
        (0x1200, 0x137F, "am"),
        (0x3040, 0x30FF, "ja"),
        (0x3400, 0x9FFF, "ja"),  # Chinese too: neither abbreviates with a full stop
    ]
)
_FIRST, _LAST = (np.array([script[end] for script in _SCRIPTS], np.uint32) for end in (0, 1))


def split_sentences(text: str, language: str = AUTO, one_a_line: bool = False) -> list[str]:
    """The sentences of a document, stripped, none empty. Joined again they are the text up to white space.

    `language` is a code such as "de"; one that the library has no rules for gets those of a related one, or English.
    """
    if one_a_line:
        found: Iterator[str] = iter(text.split("\n"))
    else:
        rules = _language_of(text) if language == AUTO else language
        found = chain.from_iterable(_by_marks(paragraph, rules) for paragraph in _BLANK_LINE.split(text))
    return [sentence for part in found if (sentence := part.strip())]


def described(language: str, one_a_line: bool) -> dict[str, str]:
    """What a manifest says of the sentences found here. Earlier versions said nothing, and had rules of their own."""
    if one_a_line:
        return {"by": "line"}
    return {"by": "sentencex", "version": version("sentencex"), "language": language}


def _by_marks(paragraph: str, language: str) -> Iterator[str]:
    sentences = list(_sentences(paragraph, language))
    if any(mark in paragraph for mark in _OTHER_MARKS):
        sentences = [part for sentence in sentences for part in _OTHER_ENDS.split(sentence)]
    if len(sentences) == 1 and not _ends_with_a_mark(sentences[0]):
        return iter(sentences[0].split("\n"))
    return iter(sentences)


def _ends_with_a_mark(sentence: str) -> bool:
    last = sentence.rstrip()[-1:]
    return bool(last) and unicodedata.category(last).startswith("P")


def _sentences(paragraph: str, language: str) -> Iterator[str]:
    """Piece by piece. The last sentence of a piece may go on in the next one, and is read again with it."""
    from sentencex import segment  # as other libraries of prepare: training needs none

    start, begun = 0, ""
    while len(paragraph) - start > _PIECE_LENGTH:
        *complete, last = segment(language, paragraph[start : start + _PIECE_LENGTH])
        if complete:
            yield begun + complete[0]
            yield from complete[1:]
            start, begun = start + sum(map(len, complete)), ""
        else:
            start, begun = start + len(last), begun + last
    first, *others = segment(language, paragraph[start:]) or [""]
    yield begun + first
    yield from others


def _language_of(text: str) -> str:
    if text.isascii():
        return "en"
    codes = np.frombuffer(text[:_SAMPLE_LENGTH].encode("utf-32-le", "replace"), np.uint32)
    script = np.searchsorted(_FIRST, codes, side="right") - 1
    letters = script[(script >= 0) & (codes <= _LAST[script])]
    counts: dict[str, int] = {}
    for number, count in enumerate(np.bincount(letters)):
        language = _SCRIPTS[number][2]
        counts[language] = counts.get(language, 0) + int(count)
    return max(counts, key=lambda language: counts[language], default="en")
