"""Turns raw blocks into documents: decodes, parses, and skips and counts what is not text. Runs in the workers."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from pretrain.data.text.sources.base import Block, TextFormat

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_JUNK = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufffd]")
_MAX_JUNK_SHARE = 0.05


def documents_of(block: Block, format: TextFormat, counts: Counter) -> Iterator[str]:
    """The documents of a block. Skipped and repaired input is added to `counts` by reason."""
    counts.update(block.counts)
    for text in block.documents(format, counts):
        if not isinstance(text, str):
            counts["no_text"] += 1
            continue
        text = text.strip()
        if not text:
            counts["empty"] += 1
            continue
        if _SURROGATE.search(text):  # JSON can spell halves of characters
            text = _SURROGATE.sub("\ufffd", text)
            counts["repaired_utf8"] += 1
        if len(_JUNK.findall(text)) > _MAX_JUNK_SHARE * len(text):
            counts["binary"] += 1
            continue
        yield text


def describe(counts: Mapping[str, int]) -> str:
    """One line for people."""
    reasons = {
        "empty": "empty documents",
        "no_text": "documents without text",
        "binary": "documents of binary junk",
        "bad_json": "lines that are not JSON objects",
        "missing_column": "lines without the column",
        "oversized_lines": "lines over 16 MiB",
        "duplicates": "duplicates",
        "too_short": "documents below the minimum length",
        "too_long": "documents above the maximum length",
        "untokenized": "documents without a token",
        "repaired_utf8": "repairs of broken UTF-8",
        "other_encodings": "files in UTF-16 or UTF-32",
        "cut_documents": "cuts in documents over 16 MiB",
        "broken_files": "compressed files that are cut off or damaged",
        "broken_files_kept": "bytes of text kept of these",
    }
    return ", ".join(f"{counts[reason]:,} {text}" for reason, text in reasons.items() if counts.get(reason))
