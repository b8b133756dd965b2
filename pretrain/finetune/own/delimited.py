"""CSV and TSV to rows: whatever separator, quotes and Unicode encoding a program wrote them with."""

import codecs
import csv
import io
from pathlib import Path
from typing import Literal

from model.errors import UserError
from pretrain.finetune.text import read_text

SEPARATORS = (",", ";", "\t", "|")
LONGEST_CELL = 2**31 - 1
"""Characters; csv would stop at 131,072."""


def read_delimited(path: Path) -> dict[str, list[str | None]]:
    """Columns by their names in the first line; an empty cell is None. Raises UserError for lines of other lengths."""
    text = _decoded(path)
    separator = "\t" if path.suffix == ".tsv" else _separator(text)
    header, *rows = _rows(path, text, separator)
    names = [name.strip() for name in header]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} has two columns named {repeated[0]!r}; rename one of them in its first line")
    return {name: [row[place] or None for row in rows] for place, name in enumerate(names)}


def _decoded(path: Path) -> str:
    """UTF-8, or UTF-16 as spreadsheets save "Unicode text"."""
    with open(path, "rb") as file:
        begins = file.read(2)
    if begins in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return path.read_text("utf-16")
    return read_text(path)


def _separator(text: str) -> str:
    """The one that the first line has most of, outside quotes."""
    header = text.lstrip("\n").partition("\n")[0]
    outside = "".join(header.split('"')[::2])
    return max(SEPARATORS, key=outside.count)


def _rows(path: Path, text: str, separator: str) -> list[list[str]]:
    rows, odd = _parsed(text, separator, csv.QUOTE_MINIMAL)
    if separator == "\t":  # often written without quoting
        plain, plain_odd = _parsed(text, separator, csv.QUOTE_NONE)
        if not plain_odd and any(_has_stray_quote(cell) for row in plain for cell in row):
            rows, odd = plain, 0
    if not rows:
        raise UserError(f"{path} is empty; give a table with a line of column names")
    if odd:
        raise UserError(
            f"{path}, line {odd}: not as many cells as the first line, which has {len(rows[0])} separated by "
            f"{separator!r}; put quotes around a text that holds the separator"
        )
    return rows


def _has_stray_quote(cell: str) -> bool:
    """A quote there is a character like others."""
    return cell == '"' or cell.startswith('"') != cell.endswith('"')


def _parsed(text: str, separator: str, quoting: Literal[0, 3]) -> tuple[list[list[str]], int]:
    """The rows, and the line where the first one ends that has not as many cells as the header; 0 if all have."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting)
        rows: list[list[str]] = []
        for row in reader:
            if row:  # else a blank line
                rows.append(row)
                if len(row) != len(rows[0]):
                    return rows, reader.line_num
        return rows, 0
    finally:
        csv.field_size_limit(before)
