"""A prepared corpus, opened: its shards by split, its tokenizer, and what its manifest says of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.errors import UserError
from pretrain.data.hashing import below
from pretrain.data.indexed import IndexedReader
from pretrain.data.tokenizer import SpecialIds, tokenizer_hash, word_starts


@dataclass(frozen=True)
class Corpus:
    """Made by `Corpus.open`. Opening maps files into memory and reads none of their tokens."""

    directory: Path
    manifest: dict
    tokenizer: Tokenizer
    special: SpecialIds

    @classmethod
    def open(cls, directory: Path | str) -> "Corpus":
        """Raises UserError when the directory is missing, no prepared corpus, or its tokenizer not the shards' own."""
        directory = Path(directory)
        manifest_path = directory / "manifest.json"
        if not directory.is_dir():
            raise UserError(f"corpus {directory} does not exist; make it with the verb prepare")
        if not manifest_path.is_file():
            raise UserError(
                f"{directory} is not a prepared corpus: it has no manifest.json; make one with the verb prepare"
            )
        try:
            manifest = json.loads(manifest_path.read_text("utf-8"))
            expected = manifest["tokenizer"]["hash"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{manifest_path} is not the manifest of a prepared corpus; prepare it again") from error
        found = tokenizer_hash(directory / "tokenizer.json")
        if found != expected:
            raise UserError(
                f"the vocabulary in {directory / 'tokenizer.json'} (hash {found[:12]}) does not match the shards, "
                f"made with {expected[:12]}; put the right one back or prepare the corpus again"
            )
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        return cls(directory, manifest, tokenizer, SpecialIds.of(tokenizer))

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    @property
    def tokenizer_hash(self) -> str:
        return self.manifest["tokenizer"]["hash"]

    @cached_property
    def word_starts(self) -> np.ndarray:
        """[vocab] bool: whether a token opens a word."""
        return word_starts(self.tokenizer)

    @cached_property
    def is_special(self) -> np.ndarray:
        """[vocab] bool."""
        special = np.zeros(self.vocab_size, bool)
        special[self.special.all()] = True
        return special

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """The ids that are no special token: what a random replacement is drawn from."""
        return np.flatnonzero(~self.is_special)

    def split(self, name: str) -> "Split":
        """One of the splits "train" and "valid"."""
        shards = self.manifest["splits"][name]["shards"]
        return Split(name, [IndexedReader(self.directory / shard["name"]) for shard in shards])


class Split:
    """Documents of all shards, numbered from 0 in the shards' order. All arrays are int64."""

    def __init__(self, name: str, shards: list[IndexedReader]) -> None:
        self.name, self.shards = name, shards
        self._first_document = np.cumsum([0, *(shard.num_documents for shard in shards)])
        self.num_documents = int(self._first_document[-1])
        self.num_tokens = sum(len(shard.tokens) for shard in shards)
        if self.num_tokens == 0:
            raise UserError(f"the {name} split of {shards[0].prefix.parent} is empty; prepare the corpus again")

    def locate(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For document numbers [D]: their shard, the position of their first token in it, their length in tokens."""
        shard, first, last = self._sentences(documents)
        start = self.sentence_starts(shard, first)
        return shard, start, self.sentence_starts(shard, last) - start

    def random_sentence(self, documents: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A sentence of each document: its shard, its first token, and the end of its document."""
        shard, first, last = self._sentences(documents)
        return (
            shard,
            self.sentence_starts(shard, first + below(hashes, last - first)),
            self.sentence_starts(shard, last),
        )

    def sentences_between(self, shard: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of the first sentence that starts at `begin` or later, and how many start before `end`."""
        before_begin = self._by_shard(shard, lambda reader, at: reader.sentences_before(at), begin)
        before_end = self._by_shard(shard, lambda reader, at: reader.sentences_before(at), end)
        return before_begin, before_end - before_begin

    def sentence_starts(self, shard: np.ndarray, sentences: np.ndarray) -> np.ndarray:
        """The position of each sentence's first token."""
        return self._by_shard(shard, lambda reader, numbers: reader.sentence_starts(numbers), sentences)

    def _sentences(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For document numbers: their shard, their first sentence in it, and the one after their last."""
        shard = np.searchsorted(self._first_document, documents, side="right") - 1
        within = documents - self._first_document[shard]
        first = self._by_shard(shard, lambda reader, numbers: reader.document_sentences[numbers], within)
        last = self._by_shard(shard, lambda reader, numbers: reader.document_sentences[numbers + 1], within)
        return shard, first, last

    def _by_shard(
        self, shard: np.ndarray, look_up: Callable[[IndexedReader, np.ndarray], np.ndarray], keys: np.ndarray
    ) -> np.ndarray:
        if len(self.shards) == 1:
            return look_up(self.shards[0], keys)
        values = np.empty(len(keys), np.int64)
        for number in np.unique(shard):
            here = shard == number
            values[here] = look_up(self.shards[number], keys[here])
        return values
