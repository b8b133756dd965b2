"""Files as streams of bytes, compressed or not, cut into blocks of whole lines or documents."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pretrain.data.text.sources import limits
from pretrain.data.text.sources.base import Block

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def read_bytes(file: Path, counts: Counter) -> Iterator[tuple[bytes, int]]:
    """The decompressed content, and the bytes of the file it takes. Counts a compressed file that is cut off."""
    if file.suffix not in COMPRESSIONS:
        with open(file, "rb") as stream:
            while data := stream.read(limits.CHUNK_BYTES):
                yield data, len(data)
        return
    import pyarrow

    with pyarrow.OSFile(str(file), "rb") as raw:
        stream = pyarrow.CompressedInputStream(raw, COMPRESSIONS[file.suffix])
        position = 0
        try:
            while data := stream.read(limits.CHUNK_BYTES):
                before, position = position, raw.tell()
                yield data, position - before
        except OSError:
            counts["broken_files"] += 1


def read_documents(file: Path, ends: list[bytes], kind: type[Block]) -> Iterator[Block]:
    """Blocks that end with one of `ends`, or with the file. A document beyond the limit is cut at a line end."""
    block = kind(b"", 0, 0)
    for data, disk_bytes in read_bytes(file, block.counts):
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


def read_lines(file: Path, kind: type[Block]) -> Iterator[Block]:
    """Blocks of whole lines. A line beyond the limit is omitted and counted."""
    block, skipping = kind(b"", 0, 0), False
    for data, disk_bytes in read_bytes(file, block.counts):
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
