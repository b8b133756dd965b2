"""A prepared corpus, opened: its shards by split, its tokenizer, and what its manifest says of them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.errors import UserError
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
    """Documents of all shards, numbered from 0 in the shards' order."""

    def __init__(self, name: str, shards: list[IndexedReader]) -> None:
        self.name, self.shards = name, shards
        self._first_document = np.cumsum([0, *(shard.num_documents for shard in shards)])
        if self.num_tokens == 0:
            raise UserError(f"the {name} split of {shards[0].prefix.parent} is empty; prepare the corpus again")

    @property
    def num_documents(self) -> int:
        return int(self._first_document[-1])

    @property
    def num_tokens(self) -> int:
        return sum(len(shard.tokens) for shard in self.shards)

    def locate(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For document numbers [D]: their shard, the position of their first token in it, their length in tokens."""
        shard_of = np.searchsorted(self._first_document, documents, side="right") - 1
        starts, ends = np.empty_like(documents), np.empty_like(documents)
        for number in np.unique(shard_of):
            shard, here = self.shards[number], shard_of == number
            within = documents[here] - self._first_document[number]
            starts[here] = shard.sentence_starts(shard.document_sentences[within])
            ends[here] = shard.sentence_starts(shard.document_sentences[within + 1])
        return shard_of, starts, ends - starts
