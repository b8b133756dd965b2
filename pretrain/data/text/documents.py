"""Turns raw blocks into documents: decodes, parses, and skips and counts what is not text. Runs in the workers."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from pretrain.data.text.sources import Block, TextFormat

_BLANK_LINE = re.compile(r"\n\s*\n")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_JUNK = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufffd]")
_MAX_JUNK_SHARE = 0.05


def documents_of(block: Block, format: TextFormat, counts: Counter) -> Iterator[str]:
    """The documents of a block. Skipped and repaired input is added to `counts` by reason."""
    counts.update(block.counts)
    for text in _texts(block, format, counts):
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


def _texts(block: Block, format: TextFormat, counts: Counter) -> Iterator[str | None]:
    if block.kind == "tokens":
        return iter(())
    if block.kind == "documents":
        return iter(block.content)
    if block.kind == "jsonl":
        return _parse_json(block.content, format.text_column, counts)
    text = _decode(block.content, counts).replace("\r\n", "\n").replace("\r", "\n")
    if format.documents == "file":
        return iter([text])
    documents = text.split("\n") if format.documents == "line" else _BLANK_LINE.split(text)
    return (document for document in documents if document.strip())


def _parse_json(content: bytes, column: str, counts: Counter) -> Iterator[str | None]:
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(_decode(line, counts))
        except (ValueError, RecursionError):
            counts["bad_json"] += 1
            continue
        if not isinstance(row, dict):
            counts["bad_json"] += 1
        elif column not in row:
            counts["missing_column"] += 1
        else:
            yield row[column]


def _decode(content: bytes, counts: Counter) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        counts["repaired_utf8"] += 1
        return content.decode("utf-8", "replace")


def describe(counts: Mapping[str, int]) -> str:
    """One line for people."""
    reasons = {
        "empty": "empty documents",
        "no_text": "documents without text",
        "binary": "documents of binary junk",
        "bad_json": "lines that are no JSON object",
        "missing_column": "lines without the column",
        "oversized_lines": "lines over 16 MiB",
        "duplicates": "duplicates",
        "too_short": "documents below the minimum length",
        "too_long": "documents above the maximum length",
        "untokenized": "documents without a token",
        "repaired_utf8": "repairs of broken UTF-8",
        "cut_documents": "cuts in documents over 16 MiB",
        "broken_files": "compressed files that break off",
    }
    return ", ".join(f"{counts[reason]:,} {text}" for reason, text in reasons.items() if counts.get(reason))
