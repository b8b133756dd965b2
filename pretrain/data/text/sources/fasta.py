"""`.fasta` and `.fa`: sequences of proteins, one record a document, without their headers.

A record is a line that begins with `>` and the lines after it. Residues are written in capitals, a `*` at the end of a
sequence is left out, and so are lines of comment that begin with `;`.
"""

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from model.errors import UserError
from pretrain.data.text.sources.base import Block, FileFormat, TextFormat, decoded
from pretrain.data.text.sources.streams import read_documents

_HEADER = b"\n>"


class Fasta(FileFormat):
    ending: ClassVar[str] = ".fasta"

    def read(self, file: Path, format: TextFormat) -> Iterator[Block]:
        is_cut = False
        for number, block in enumerate(read_documents(file, [_HEADER], FastaBlock, format.broken_files)):
            begin = block.content.removeprefix(BOM_UTF8).lstrip()
            if number == 0 and begin and not begin.startswith((b">", b";")):
                raise UserError(f"{file} is no FASTA file: it must begin with a header, such as >sp|P69905; mend it")
            if is_cut:  # a record that is too long goes on: its residues begin at once, as behind an empty header
                block.content = b"\n" + block.content
            is_cut = not block.content.endswith(_HEADER)
            yield block


class ShortFasta(Fasta):
    ending: ClassVar[str] = ".fa"


class FastaBlock(Block):
    """All but the first of a file begin behind the `>` of a header, and all but the last end with that of the next."""

    def documents(self, format: TextFormat, counts: Counter) -> Iterator[str]:
        text = decoded(self.content, counts).replace("\r\n", "\n").replace("\r", "\n")
        text = "\n".join(line for line in text.split("\n") if not line.startswith(";"))
        for record in text.lstrip(" \t").removeprefix(">").split("\n>"):
            header, _, sequence = record.partition("\n")
            if header or sequence:
                yield "".join(sequence.split()).upper().rstrip("*")
