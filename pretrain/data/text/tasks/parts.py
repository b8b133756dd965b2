"""What a task hands on: its tokenized documents in one file, block by block. Whole, or not there."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pretrain.data.text.shards import Documents
from pretrain.data.text.sources import limits
from pretrain.data.text.worker import TokenizedChunk


def part_file(folder: Path, task: int) -> Path:
    return folder / f"{task:05}.part"


def write_block(stream: BinaryIO, block: TokenizedChunk) -> None:
    documents = block.documents
    header = json.dumps([block.num_bytes, block.num_disk_bytes, block.counts, block.held_out]).encode()
    words = np.zeros(0, bool) if documents.opens_word is None else documents.opens_word
    for array in (
        *(np.frombuffer(header, np.uint8), block.hashes),
        *(documents.tokens, documents.sentence_lengths, documents.num_sentences, words),
    ):
        np.save(stream, array, allow_pickle=False)


def read_part(file: Path, stores_words: bool) -> Iterator[TokenizedChunk]:
    """Its blocks, in order."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        while stream.tell() < size:
            header, hashes, tokens, lengths, sentences, words = (np.load(stream) for _ in range(6))
            # The last is missing in what an earlier version left.
            num_bytes, num_disk_bytes, counts, *held_out = json.loads(header.tobytes())
            documents = Documents(tokens, lengths, sentences, words if stores_words else None)
            yield TokenizedChunk(documents, hashes, Counter(counts), num_bytes, num_disk_bytes, *held_out)


def without(blocks: Iterable[TokenizedChunk], removed: np.ndarray, reason: str) -> Iterator[TokenizedChunk]:
    """The blocks of a part without the documents at `removed` [R]: places in the part, from 0. Counts them."""
    first = 0
    for block in blocks:
        here = removed[(removed >= first) & (removed < first + len(block.hashes))] - first
        first += len(block.hashes)
        kept = np.ones(len(block.hashes), bool)
        kept[here] = False
        counts = block.counts + Counter({reason: len(here)})
        yield replace(block, documents=block.documents.select(kept), hashes=block.hashes[kept], counts=counts)


def in_chunks(blocks: Iterable[TokenizedChunk]) -> Iterator[TokenizedChunk]:
    """Blocks joined as `read_chunks` joins them: a shard ends where a chunk does."""
    waiting: list[TokenizedChunk] = []
    for block in blocks:
        if waiting and waiting[-1].held_out != block.held_out:
            yield _joined(waiting)
            waiting = []
        waiting.append(block)
        if sum(each.num_bytes for each in waiting) >= limits.CHUNK_BYTES:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(blocks: list[TokenizedChunk]) -> TokenizedChunk:
    counts: Counter[str] = Counter()
    for block in blocks:
        counts.update(block.counts)
    return TokenizedChunk(
        Documents.concatenate([block.documents for block in blocks]),
        np.concatenate([block.hashes for block in blocks]),
        counts,
        sum(block.num_bytes for block in blocks),
        sum(block.num_disk_bytes for block in blocks),
        blocks[0].held_out,
    )
