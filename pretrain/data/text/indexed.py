"""Megatron-core's IndexedDataset on disk: tokens in NAME.bin, lengths and document boundaries in NAME.idx.

A sequence is a sentence here; `document_indices` holds the number of the first sentence of every document and, at the
end, the number of sentences. Written and read with numpy alone, so that preparing a corpus and loading it import no
engine, and opening a corpus of any size is two memory maps.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model.errors import UserError

_HEADER = struct.Struct("<9sQBQQ")  # magic, version, code of the dtype, number of sequences, length of document_indices
_MAGIC = b"MMIDIDX\x00\x00"
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type for token ids, by megatron-core's own rule."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


class IndexedReader:
    """One shard, memory-mapped.

    `tokens` [num_tokens]; `sentence_lengths` [num_sentences] in tokens; `document_sentences` [num_documents + 1], the
    first sentence of each document. Raises UserError when the files are missing or do not fit each other.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._words: np.ndarray | None = None
        idx, bin_file = _paths(prefix)
        if not idx.is_file() or not bin_file.is_file():
            raise UserError(f"shard {prefix} is missing its .bin or .idx file; prepare the corpus again")
        magic, version, code, num_sentences, num_boundaries = _read_header(idx)
        if magic != _MAGIC or version != 1 or code not in _DTYPES:
            raise UserError(f"{idx} is not an IndexedDataset index of version 1; prepare the corpus again")
        self.dtype = np.dtype(_DTYPES[code])
        expected = _HEADER.size + num_sentences * (4 + 8) + num_boundaries * 8
        if idx.stat().st_size < expected or num_boundaries < 1:
            raise UserError(
                f"{idx} holds {idx.stat().st_size} bytes, {expected} were announced; prepare the corpus again"
            )
        offset = _HEADER.size
        self.sentence_lengths = _map(idx, np.int32, num_sentences, offset)
        self._sentence_bytes = _map(idx, np.int64, num_sentences, offset + num_sentences * 4)
        self.document_sentences = _map(idx, np.int64, num_boundaries, offset + num_sentences * 12)
        self.tokens = _map(bin_file, self.dtype, bin_file.stat().st_size // self.dtype.itemsize, 0)
        announced = (
            int(self._sentence_bytes[-1]) // self.dtype.itemsize + int(self.sentence_lengths[-1])
            if num_sentences
            else 0
        )
        if announced != len(self.tokens):
            raise UserError(
                f"{bin_file} holds {len(self.tokens)} tokens, {announced} were announced; prepare the corpus again"
            )

        words = prefix.with_name(prefix.name + ".words")
        if words.is_file():
            num_bytes = (len(self.tokens) + 7) // 8
            if words.stat().st_size != num_bytes:
                raise UserError(
                    f"{words} holds {words.stat().st_size} bytes, {num_bytes} were announced; prepare the corpus again"
                )
            self._words = _map(words, np.uint8, num_bytes, 0)

    @property
    def num_documents(self) -> int:
        return len(self.document_sentences) - 1

    @property
    def num_sentences(self) -> int:
        return len(self.sentence_lengths)

    @property
    def stores_words(self) -> bool:
        return self._words is not None

    def disorder(self, shortest: int = 1) -> Iterator[str]:
        """What is wrong with the index. Sentences have `shortest` tokens or more. Reads all of it."""
        boundaries = self.document_sentences
        if boundaries[0] != 0 or boundaries[-1] != self.num_sentences or (np.diff(boundaries) < 0).any():
            yield f"{self.prefix}.idx has document boundaries out of order"
        ends = np.cumsum(self.sentence_lengths, dtype=np.int64)
        starts = self.sentence_starts(np.arange(self.num_sentences))
        if (self.sentence_lengths < shortest).any() or not np.array_equal(starts, ends - self.sentence_lengths):
            yield f"{self.prefix}.idx has sentences that do not follow each other"

    def opens_word(self, start: int, stop: int) -> np.ndarray | None:
        """[stop - start] bool: which tokens open a word; None where the shard does not say."""
        if self._words is None:
            return None
        bits = np.unpackbits(self._words[start >> 3 : (stop + 7) >> 3])
        return bits[start & 7 :][: stop - start].astype(bool)

    def sentence_starts(self, sentences: np.ndarray) -> np.ndarray:
        """Where in `tokens` the sentences of these numbers begin; `num_sentences` itself gives the end of the shard."""
        sentences = np.asarray(sentences)
        starts = np.full(sentences.shape, len(self.tokens), np.int64)
        inside = sentences < self.num_sentences
        starts[inside] = self._sentence_bytes[sentences[inside]] // self.dtype.itemsize
        return starts

    def sentences_between(self, spans: np.ndarray) -> np.ndarray:
        """For spans of `tokens` [N, (begin, end)]: the first sentence starting inside, and the first one after it."""
        begin, end = spans.T
        first = self._search(begin, np.zeros_like(begin), np.full_like(begin, self.num_sentences))
        # A sentence has a token at least.
        after = self._search(end, first, np.minimum(first + np.maximum(end - begin, 0), self.num_sentences))
        return np.stack([first, after], axis=1)

    def _search(self, positions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The first sentence in low .. high that starts at each position or later.

        A binary search, vectorised. numpy's own would first copy the whole index, which is not aligned in its file.
        """
        positions = positions * self.dtype.itemsize
        before = low - 1  # the last sentence known to start before
        for bit in reversed(range(int((high - low).max(initial=0)).bit_length())):
            probe = before + (1 << bit)
            starts_before = self._sentence_bytes[np.minimum(probe, self.num_sentences - 1)] < positions
            before += (starts_before & (probe < high)) << bit
        return before + 1


def write_index(path: Path, dtype: np.dtype, sentence_lengths: np.ndarray, document_num_sentences: np.ndarray) -> None:
    """NAME.idx for a NAME.bin that holds sentences of these lengths, in documents of these numbers of sentences."""
    assert len(sentence_lengths) == document_num_sentences.sum()
    lengths = sentence_lengths.astype(np.int32, copy=False)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    boundaries = np.append(0, np.cumsum(document_num_sentences, dtype=np.int64))
    with open(path, "wb") as file:
        file.write(_HEADER.pack(_MAGIC, 1, _CODES[dtype], len(lengths), len(boundaries)))
        for array in (lengths, starts * dtype.itemsize, boundaries):
            array.tofile(file)


def _paths(prefix: Path) -> tuple[Path, Path]:
    return prefix.with_name(prefix.name + ".idx"), prefix.with_name(prefix.name + ".bin")


def _read_header(idx: Path) -> tuple[bytes, int, int, int, int]:
    with open(idx, "rb") as file:
        return _HEADER.unpack(file.read(_HEADER.size).ljust(_HEADER.size, b"\0"))


def _map(path: Path, dtype: type | np.dtype, count: int, offset: int) -> np.ndarray:
    if count == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r", offset, (count,)))  # a plain view: slices cost half of a memmap's
