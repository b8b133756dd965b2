"""A table of one's own: CSV, TSV, JSON lines or Parquet, as columns in memory."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.finetune.own.delimited import read_delimited
from pretrain.finetune.text import read_text

Columns = dict[str, list[Any]]
"""Cells by column, all of one length; None where a cell is empty or missing."""


@dataclass(frozen=True)
class Table:
    path: Path
    columns: Columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def where(self, row: int) -> str:
        """A row in words, counted from 1."""
        return f"{self.path}, row {row + 1}"


def read_table(path: Path) -> Table:
    """Raises UserError for a file that is missing, empty, of another kind or damaged."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; name a table: {', '.join(READERS)}")
    if path.suffix not in READERS:
        raise UserError(f"{path} must end in {', '.join(READERS)}")
    try:
        table = Table(path, READERS[path.suffix](path))
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror or fault}") from None
    if not len(table):
        raise UserError(f"{path} has no rows; give a table with examples")
    return table


def _read_json_lines(path: Path) -> Columns:
    rows: list[dict] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not a JSON object; write one object to a line")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Columns:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as fault:
        raise UserError(f"{path} is not a readable Parquet file: {str(fault).splitlines()[0]}") from None
    columns = table.to_pydict()
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    for name, feature in about.get("info", {}).get("features", {}).items():
        if name in columns and (names := _class_names(feature)):
            columns[name] = [_named(cell, names) for cell in columns[name]]
    return columns


def _class_names(feature: Any) -> list[str] | None:
    """Of a ClassLabel of the library datasets, or a list of them."""
    if isinstance(feature, list):
        return _class_names(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    return feature.get("names") if feature.get("_type") == "ClassLabel" else _class_names(feature.get("feature"))


def _named(cell: Any, names: list[str]) -> Any:
    """Numbers of classes as their names; -1 means that there is none."""
    if isinstance(cell, list):
        return [_named(each, names) for each in cell]
    return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None


READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
