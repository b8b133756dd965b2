"""`.jsonl`: one JSON object to a line, the text under `text_column`."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pretrain.data.text.sources.base import Block, FileFormat, TextFormat, decoded, no_column
from pretrain.data.text.sources.streams import read_lines


class JsonLines(FileFormat):
    ending: ClassVar[str] = ".jsonl"

    def read(self, file: Path, format: TextFormat) -> Iterator[Block]:
        for number, block in enumerate(read_lines(file, JsonBlock, format.broken_files)):
            if number == 0:
                _require_column(block, format.text_column, file)
            yield block


class JsonBlock(Block):
    def documents(self, format: TextFormat, counts: Counter) -> Iterator[str | None]:
        for line in self.content.split(b"\n"):
            if not line.strip():
                continue
            try:
                row = json.loads(decoded(line, counts))
            except (ValueError, RecursionError):
                counts["bad_json"] += 1
                continue
            if not isinstance(row, dict):
                counts["bad_json"] += 1
            elif format.text_column not in row:
                counts["missing_column"] += 1
            else:
                yield row[format.text_column]


def _require_column(block: Block, column: str, file: Path) -> None:
    """Raises UserError if the first object of the file lacks the column: better now than after an hour."""
    try:
        row = json.loads(block.content.lstrip().split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return  # counted where it is parsed
    if isinstance(row, dict) and column not in row:
        raise no_column(str(file), column, row)
