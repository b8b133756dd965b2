"""Text that is not in UTF-8 is read as what it is."""

import gzip
from collections import Counter
from pathlib import Path

import pytest

from pretrain.data.text.documents import describe
from pretrain.data.text.sources import limits
from pretrain.data.text.sources.streams import read_bytes

TEXTS = {
    "utf-16": "The old house. 中文, हिन्दी 😀\n" * 9,  # Python writes the mark
    "utf-32": "中文\n" * 9,
    "utf-16-le": "Plain English, without a mark.\r\n" * 9,
    "utf-16-be": "Ein altes Haus, größer.\n" * 9,
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("encoding", TEXTS)
def test_other_encodings(encoding: str, compressed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHUNK_BYTES", 13)  # cuts characters
    file, counts = tmp_path / f"a.txt{'.gz' if compressed else ''}", Counter()
    content = TEXTS[encoding].encode(encoding)
    file.write_bytes(gzip.compress(content) if compressed else content)
    assert b"".join(data for data, _ in read_bytes(file, counts)).decode() == TEXTS[encoding]
    assert describe(counts) == "1 files in UTF-16 or UTF-32"


@pytest.mark.parametrize("content", ["Größe 中文\n".encode() * 9, b"\0" * 100, b"\0\1" * 3 + b"x\n" * 90, b"", b"a"])
def test_anything_else_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    file, counts = tmp_path / "a.txt", Counter()
    file.write_bytes(content)
    assert b"".join(data for data, _ in read_bytes(file, counts)) == content
    assert not counts
