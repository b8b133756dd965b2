"""The files of a split while they grow: appended to, cut back to the last save after a crash, closed into shards."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from pretrain.data.text.indexed import write_index

WORKING_FILES = (".lengths", ".documents", ".opens")
"""Beside the tokens while a shard is open."""


@dataclass(frozen=True)
class Documents:
    """Tokenized documents, one after the other."""

    tokens: np.ndarray  # [T]
    sentence_lengths: np.ndarray  # [S] tokens of each sentence, int32
    num_sentences: np.ndarray  # [D] sentences of each document, int64
    opens_word: np.ndarray | None = None  # [T] bool, where the tokenizer `stores_words`

    @property
    def num_tokens(self) -> np.ndarray:
        """[D] tokens of each document."""
        ends = np.append(0, np.cumsum(self.sentence_lengths, dtype=np.int64))
        last = np.cumsum(self.num_sentences)
        return ends[last] - ends[last - self.num_sentences]

    @staticmethod
    def concatenate(parts: list["Documents"]) -> "Documents":
        words = [part.opens_word for part in parts if part.opens_word is not None]
        assert len(words) in (0, len(parts)), "some parts store words, others do not"
        return Documents(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.sentence_lengths for part in parts]),
            np.concatenate([part.num_sentences for part in parts]),
            np.concatenate(words) if words else None,
        )

    def select(self, chosen: np.ndarray) -> "Documents":
        """The documents for which `chosen` [D] is true."""
        if chosen.all():
            return self
        sentences = np.repeat(chosen, self.num_sentences)
        tokens = np.repeat(sentences, self.sentence_lengths)
        words = None if self.opens_word is None else self.opens_word[tokens]
        return Documents(self.tokens[tokens], self.sentence_lengths[sentences], self.num_sentences[chosen], words)


@dataclass
class _Counts:
    num_tokens: int = 0
    num_sentences: int = 0
    num_documents: int = 0


@dataclass
class SplitWriter:
    """Appends documents to NAME-00000, NAME-00001, ...; a shard is closed when it holds `shard_tokens` or more.

    Only counts are held in memory; lengths and boundaries lie in separate files until a shard is closed.
    """

    directory: Path
    name: str
    dtype: np.dtype
    shard_tokens: int
    stores_words: bool = False
    """Whether a shard has a third file, NAME.words: a bit for each token, set where it opens a word."""
    closed: list[dict] = field(default_factory=list)
    _open: _Counts = field(default_factory=_Counts)

    def append(self, documents: Documents) -> None:
        parts = {
            ".bin": documents.tokens.astype(self.dtype, copy=False),
            ".lengths": documents.sentence_lengths.astype(np.int32, copy=False),
            ".documents": documents.num_sentences.astype(np.int64, copy=False),
        }
        if self.stores_words:
            assert documents.opens_word is not None
            parts[".opens"] = documents.opens_word.astype(np.uint8)
        for suffix, array in parts.items():
            with open(self._file(suffix), "ab") as file:
                file.write(array.tobytes())
        self._open.num_tokens += len(documents.tokens)
        self._open.num_sentences += len(documents.sentence_lengths)
        self._open.num_documents += len(documents.num_sentences)
        if self._open.num_tokens >= self.shard_tokens:
            self.close_shard()

    def close_shard(self) -> None:
        """Turns the open files into a shard, if anything is in them."""
        if self._open.num_documents:
            write_index(
                self._file(".idx"),
                self.dtype,
                np.fromfile(self._file(".lengths"), np.int32),
                np.fromfile(self._file(".documents"), np.int64),
            )
            if self.stores_words:
                np.packbits(np.memmap(self._file(".opens"), np.uint8, "r")).tofile(self._file(".words"))
            self.closed.append({"name": self._stem, **asdict(self._open)})
            self._open = _Counts()

    @property
    def num_tokens(self) -> int:
        return self._open.num_tokens + sum(shard["num_tokens"] for shard in self.closed)

    def state(self) -> dict:
        """What `restore` needs. The files are on disk as far as this says."""
        return {"closed": self.closed, "open": asdict(self._open)}

    def restore(self, state: dict) -> None:
        """Cuts the open files back to the saved counts; closes again what was closed after the save."""
        self.closed, self._open = list(state["closed"]), _Counts(**state["open"])
        sizes = {
            ".bin": self._open.num_tokens * self.dtype.itemsize,
            ".lengths": self._open.num_sentences * 4,
            ".documents": self._open.num_documents * 8,
            **({".opens": self._open.num_tokens} if self.stores_words else {}),
        }
        for suffix, size in sizes.items():
            self._file(suffix).touch()
            with open(self._file(suffix), "r+b") as file:
                file.truncate(size)
        number = len(self.closed) + 1
        while (later := self.directory / f"{self.name}-{number:05}.bin").exists():
            for suffix in (".bin", ".idx", ".words", *WORKING_FILES):
                later.with_suffix(suffix).unlink(missing_ok=True)
            number += 1

    def finish(self) -> dict:
        """Closes the last shard and removes the working files; returns the manifest's entry without checksums."""
        self.close_shard()
        for shard in self.closed:
            for suffix in WORKING_FILES:
                (self.directory / (shard["name"] + suffix)).unlink(missing_ok=True)
        for suffix in (".bin", *WORKING_FILES):  # an open shard without a document
            self._file(suffix).unlink(missing_ok=True)
        totals = {key: sum(shard[key] for shard in self.closed) for key in asdict(_Counts())}
        return {**totals, "shards": self.closed}

    @property
    def _stem(self) -> str:
        return f"{self.name}-{len(self.closed):05}"

    def _file(self, suffix: str) -> Path:
        return self.directory / (self._stem + suffix)
