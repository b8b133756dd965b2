"""`.txt`: documents between blank lines, one to a file, or one to a line."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pretrain.data.text.sources.base import Block, FileFormat, TextFormat, decoded
from pretrain.data.text.sources.streams import read_documents, read_lines

_BLANK_LINE = re.compile(r"\n\s*\n")
_BLANK_LINES = [b"\n\n", b"\n\r\n", b"\r\r"]


class PlainText(FileFormat):
    ending: ClassVar[str] = ".txt"

    def read(self, file: Path, format: TextFormat) -> Iterator[Block]:
        if format.documents == "line":
            return read_lines(file, TextBlock, format.broken_files)
        ends = [] if format.documents == "file" else _BLANK_LINES
        return read_documents(file, ends, TextBlock, format.broken_files)


class TextBlock(Block):
    def documents(self, format: TextFormat, counts: Counter) -> Iterator[str]:
        text = decoded(self.content, counts).replace("\r\n", "\n").replace("\r", "\n")
        if format.documents == "file":
            return iter([text])
        documents = text.split("\n") if format.documents == "line" else _BLANK_LINE.split(text)
        return (document for document in documents if document.strip())
