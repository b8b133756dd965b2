"""The steps of a task that are ours: its documents read, its tokens kept, the corpus written from all of them.

datatrove's own readers would skip and repair other things than `prepare` on one node does.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from pretrain.data.text.documents import documents_of
from pretrain.data.text.options import PrepareOptions
from pretrain.data.text.reading import Input, read_blocks
from pretrain.data.text.tasks.filters import dropped_by
from pretrain.data.text.tasks.parts import in_chunks, part_file, read_part, without, write_block
from pretrain.data.text.tokenizer import TextTokenizer, read_tokenizer, saved_tokenizer
from pretrain.data.text.worker import TokenizedChunk, Worker
from pretrain.data.text.writing import write_chunks


class ReadDocuments(PipelineStep):
    """The documents of a task's files, each with the number of its block."""

    type, name = "READER", "prepare's sources"

    def __init__(self, groups: list[list[Input]], options: PrepareOptions) -> None:
        super().__init__()
        self.groups, self.format = groups, options.text_format
        self.sizes: list[tuple[int, int, bool]] = []
        """Of each block read so far: bytes of text, and on disk; whether it is held out."""
        self.counts: Counter[str] = Counter()

    def run(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        assert world_size == len(self.groups)
        self.sizes, self.counts = [], Counter()
        for source in self.groups[rank]:
            for block in read_blocks(source, self.format):
                number = len(self.sizes)
                self.sizes.append((block.num_bytes, block.num_disk_bytes, block.held_out))
                for text in documents_of(block, self.format, self.counts):
                    yield Document(text, id="", metadata={"block": number})


class KeepTokens(PipelineStep):
    """Tokenizes a task's documents and keeps the tokens in its part. Passes on those that the part holds."""

    type, name = "TOKENS", "part of a corpus"

    def __init__(self, reader: ReadDocuments, filters: Sequence[BaseFilter], options: PrepareOptions, folder: Path):
        super().__init__()
        self.reader, self.filters, self.options, self.folder = reader, filters, options, folder

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        counted = self._left_out()
        worker = Worker(saved_in(self.options), self.options)
        file = part_file(self.folder, rank)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".new")
        with open(unfinished, "wb") as stream:
            for number, documents in enumerate(self._blocks(data)):
                tokens, hashes = worker.encode([document.text for document in documents])
                counts = self._left_out() - counted
                counted = self._left_out()
                kept = worker.are_kept(tokens, counts)
                sizes = self.reader.sizes[number]
                write_block(stream, TokenizedChunk(tokens.select(kept), hashes[kept], +counts, *sizes))
                yield from (document for document, keep in zip(documents, kept, strict=True) if keep)
        unfinished.replace(file)

    def _blocks(self, documents: Iterable[Document]) -> Iterator[list[Document]]:
        """The documents of each block; of some, none are left."""
        number = 0
        for block, of_block in groupby(documents, lambda document: document.metadata["block"]):
            yield from ([] for _ in range(number, block))
            yield list(of_block)
            number = block + 1
        yield from ([] for _ in range(number, len(self.reader.sizes)))

    def _left_out(self) -> Counter[str]:
        return self.reader.counts + dropped_by(self.options.filters, self.filters)


class WriteCorpus(PipelineStep):
    """One task: the parts of all tasks, in order, as `prepare` on one node writes them."""

    type, name = "WRITER", "corpus"

    def __init__(self, inputs: list[Input], num_parts: int, options: PrepareOptions, parts: Path, removed: Path):
        super().__init__()
        self.inputs, self.num_parts, self.options, self.parts, self.removed = inputs, num_parts, options, parts, removed

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        write_chunks(self.options, self.inputs, in_chunks(self._blocks()))

    def _blocks(self) -> Iterator[TokenizedChunk]:
        stores_words = saved_in(self.options).stores_words
        for task in range(self.num_parts):
            blocks = read_part(part_file(self.parts, task), stores_words)
            if self.options.near_duplicates:
                file = self.removed / f"{task:06}.remove"  # as datatrove writes it: uint32, ascending
                removed = np.fromfile(file, np.uint32) if file.exists() else np.zeros(0, np.uint32)
                blocks = without(blocks, removed.astype(np.int64), "near_duplicates")
            yield from blocks


def saved_in(options: PrepareOptions) -> TextTokenizer:
    """The tokenizer that is in the corpus's directory already."""
    assert options.output is not None
    file = saved_tokenizer(options.output)
    assert file is not None
    return read_tokenizer(file)
