"""What every source of text is, and the raw blocks that it is read into.

Reading is cut into *chunks* of about a megabyte, the unit that goes to a worker. A chunk holds blocks that end where a
document ends. Reading a file parses nothing: a block does that in the worker, so one reader feeds many workers. A
source always gives the same blocks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from model.errors import UserError, nearest
from pretrain.data.text.sources import limits

BrokenFiles = Literal["keep", "refuse"]
"""What to do with a compressed file that is cut off or damaged: keep what can be read, or stop."""


DocumentKind = Literal["blank-line", "file", "line"]
"""What a document is in a .txt file: a block between blank lines, the whole file, or a line."""


@dataclass(frozen=True)
class TextFormat:
    """How a source is read. `PrepareOptions` has options of these names, and says what they mean."""

    documents: DocumentKind = "blank-line"
    text_column: str = "text"
    dataset_config: str | None = None
    dataset_split: str = "train"
    broken_files: BrokenFiles = "keep"


@dataclass
class Block:
    """Raw content of whole documents, from one place. Goes to a worker process, which asks for `documents`."""

    content: Any
    num_bytes: int
    """Of text, about."""
    num_disk_bytes: int
    """Bytes of the file that it took: fewer than `num_bytes` if that is compressed."""
    counts: Counter = field(default_factory=Counter)
    """What reading had to omit or cut, by reason."""
    held_out: bool = False
    """Whether it is of the text that `--valid` names."""

    def documents(self, format: TextFormat, counts: Counter) -> Iterator[str | None]:
        """Its documents; None for one without text. Adds what it omits or repairs to `counts`, by reason."""
        return iter(self.content)


class FileFormat:
    """A kind of file, by the end of its name."""

    ending: ClassVar[str]
    is_tokenized: ClassVar[bool] = False
    """Whether the file holds tokens of a vocabulary that has to be given."""

    def read(self, file: Path, format: TextFormat) -> Iterator[Block]:
        """Raises UserError if the file cannot be read at all, or lacks the column."""
        raise NotImplementedError


class NamedText:
    """Text that is not a file here, by name."""

    def knows(self, name: str) -> bool:
        raise NotImplementedError

    def read(self, name: str, format: TextFormat) -> Iterator[str | None]:
        """Its documents."""
        raise NotImplementedError


def gathered(documents: Iterable[str | None]) -> Iterator[Block]:
    """Documents in blocks of about a chunk."""
    block: list[str | None] = []
    size = 0
    for document in documents:
        block.append(document)
        size += len(document or "")
        if size >= limits.CHUNK_BYTES:
            yield Block(block, size, size)
            block, size = [], 0
    yield Block(block, size, size)


def no_column(where: str, column: str, columns: Iterable[Any]) -> UserError:
    names = [str(name) for name in columns]
    return UserError(f"{where} has no column {column!r}{nearest(column, names)}; it has {', '.join(names)}")


def decoded(content: bytes, counts: Counter) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        counts["repaired_utf8"] += 1
        return content.decode("utf-8", "replace")
