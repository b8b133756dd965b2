"""Files as streams of bytes, compressed or not, cut into blocks of whole lines or documents."""

import bz2
import gzip
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from model.errors import UserError
from pretrain.data.text.sources import limits
from pretrain.data.text.sources.base import Block, BrokenFiles
from pretrain.data.text.sources.encodings import AsUtf8

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_ZSTD_BYTES = 1 << 14  # at once: what of it comes before a fault is lost


def read_bytes(file: Path, counts: Counter, broken: BrokenFiles = "keep") -> Iterator[tuple[bytes, int]]:
    """The decompressed content in UTF-8, and the bytes of the file it takes.

    Of a compressed file that is cut off or damaged, all that comes before is kept, and counted; or UserError.
    """
    read = 0
    with open(file, "rb") as raw, _opened(raw, file.suffix) as opened:
        stream = AsUtf8(opened, counts)
        position, fault, pending = 0, None, bytearray()
        while fault is None:
            try:
                data = stream.read1(limits.CHUNK_BYTES - len(pending))
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                if file.suffix not in COMPRESSIONS:
                    raise
                data, fault = b"", error
            pending += data
            if pending and (not data or len(pending) >= limits.CHUNK_BYTES):
                before, position, read = position, raw.tell(), read + len(pending)
                yield bytes(pending), position - before
                pending.clear()
            if not data:
                break
    if fault is not None:
        if broken == "refuse":
            raise UserError(
                f"{file} is cut off or damaged after {read:,} bytes of text ({fault}); get it whole, or keep these by "
                "--broken-files keep"
            )
        counts["broken_files"] += 1
        counts["broken_files_kept"] += read


def _opened(raw: BinaryIO, suffix: str) -> Any:
    """What reads the decompressed content; its `read1` gives what there is before it raises."""
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # takes several parts, and zeros after the last one
    if suffix == ".bz2":
        return bz2.BZ2File(raw)
    if suffix == ".xz":
        return lzma.LZMAFile(raw)
    return _Zstd(raw) if suffix == ".zst" else nullcontext(raw)


class _Zstd:
    def __init__(self, raw: BinaryIO) -> None:
        import pyarrow

        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd")

    def __enter__(self) -> "_Zstd":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def read1(self, size: int) -> bytes:
        return self._stream.read(min(size, _ZSTD_BYTES))


def read_documents(file: Path, ends: list[bytes], kind: type[Block], broken: BrokenFiles = "keep") -> Iterator[Block]:
    """Blocks that end with one of `ends`, or with the file. A document beyond the limit is cut at a line end."""
    block = kind(b"", 0, 0)
    for data, disk_bytes in read_bytes(file, block.counts, broken):
        pending = block.content + data
        block.num_disk_bytes += disk_bytes
        stop = max((pending.rfind(end) + len(end) for end in ends if end in pending), default=0)
        if not stop and len(pending) > limits.MAX_DOCUMENT_BYTES:
            stop = max(pending.rfind(b"\n"), pending.rfind(b"\r")) + 1 or len(pending)
            block.counts["cut_documents"] += 1
        block.content = pending
        if stop:
            yield from _cut_off(block, stop)
    yield from _cut_off(block, len(block.content))


def read_lines(file: Path, kind: type[Block], broken: BrokenFiles = "keep") -> Iterator[Block]:
    """Blocks of whole lines. A line beyond the limit is omitted and counted."""
    block, skipping = kind(b"", 0, 0), False
    for data, disk_bytes in read_bytes(file, block.counts, broken):
        block.num_disk_bytes += disk_bytes
        if skipping:
            _, newline, data = data.partition(b"\n")
            skipping = not newline
        block.content += data
        if stop := block.content.rfind(b"\n") + 1:
            yield from _cut_off(block, stop)
        elif len(block.content) > limits.MAX_DOCUMENT_BYTES:
            block.counts["oversized_lines"] += 1
            block.content, skipping = b"", True
    yield from _cut_off(block, len(block.content))


def _cut_off(block: Block, stop: int) -> Iterator[Block]:
    """Hands out a block up to `stop`; the rest stays in it."""
    yield type(block)(block.content[:stop], stop, block.num_disk_bytes, Counter(block.counts))
    block.content, block.num_disk_bytes = block.content[stop:], 0
    block.counts.clear()
