"""Opens prepared corpora: their shards by split, their tokenizer and their manifests."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from model.errors import UserError
from pretrain.data.hashing import below, hash_of, permuted
from pretrain.data.manifest import check_manifest
from pretrain.data.text.encoding import ENCODED
from pretrain.data.text.indexed import IndexedReader
from pretrain.data.text.tokenizer import Vocabulary, saved_tokenizer, tokenizer_hash, tokenizer_in

_ROUND_ORDER = 6


@dataclass(frozen=True)
class CorpusFiles:
    """What is read to open a corpus. One rank reads it for all."""

    path: Path
    """The prepared directory, or the file of a mixture."""
    weights: dict[Path, float]
    """The prepared directories, and how many times an epoch reads each: 0.5 is every second document."""
    manifests: list[dict]
    tokenizer_path: Path
    tokenizer: bytes

    @property
    def vocab_size(self) -> int:
        """As the manifest has it: earlier versions counted a vocabulary with holes in another way."""
        return self.manifests[0]["tokenizer"]["vocab_size"]

    @property
    def tokenizer_hash(self) -> str:
        return self.manifests[0]["tokenizer"]["hash"]

    @classmethod
    def read(cls, path: Path | str) -> "CorpusFiles":
        """Raises UserError if a directory is missing or is not a prepared corpus, if its tokenizer is not the one that
        the shards were made with, or if the tokenizers of a mixture differ."""
        path = Path(path)
        weights = _read_mixture(path) if path.is_file() else {path: 1.0}
        manifests = [_read_manifest(directory) for directory in weights]
        first, *others = weights
        tokenizer = first / tokenizer_name(manifests[0])
        for directory, manifest in zip(others, manifests[1:], strict=True):
            if manifest["tokenizer"]["hash"] != manifests[0]["tokenizer"]["hash"]:
                raise UserError(
                    f"corpora {first} and {directory} have different tokenizers; prepare the second with --vocab "
                    f"{tokenizer}"
                )
        return cls(path, weights, manifests, tokenizer, tokenizer.read_bytes())


@dataclass(frozen=True)
class Corpus(Vocabulary):
    """Create it with `Corpus.open`, which memory-maps the files and reads no tokens."""

    files: CorpusFiles

    @classmethod
    def open(cls, path: Path | str) -> "Corpus":
        """Opens a prepared directory, or a mixture of several: a YAML file of lines `directory: weight`.

        Raises UserError as `CorpusFiles.read` and `of` do.
        """
        return cls.of(CorpusFiles.read(path))

    @classmethod
    def of(cls, files: CorpusFiles) -> "Corpus":
        """Raises UserError if the tokenizer is broken."""
        return cls(tokenizer_in(files.tokenizer_path, files.tokenizer), files)

    @property
    def path(self) -> Path:
        return self.files.path

    @property
    def weights(self) -> dict[Path, float]:
        return self.files.weights

    @property
    def manifests(self) -> list[dict]:
        return self.files.manifests

    @property
    def directory(self) -> Path:
        """For a mixture, the first one."""
        return next(iter(self.weights))

    @property
    def manifest(self) -> dict:
        """For a mixture, the first one."""
        return self.manifests[0]

    @property
    def vocab_size(self) -> int:
        return self.files.vocab_size

    @property
    def note(self) -> str | None:
        """A line for the user where the ids may differ from those of the vocabulary that was given, else None."""
        for directory, manifest in zip(self.weights, self.manifests, strict=True):
            vocab = manifest["options"].get("vocab")
            if vocab and manifest["tokenizer"].get("encoded") != ENCODED:
                return (
                    f"corpus {directory} was prepared by an earlier version: its ids may differ from those of {vocab}; "
                    "it is used as it is"
                )
        return None

    @property
    def tokenizer_hash(self) -> str:
        return self.files.tokenizer_hash

    def split_hash(self, name: str) -> str:
        """Equal for splits with the same tokens of the same vocabulary."""
        shards = [manifest["splits"][name]["shards"] for manifest in self.manifests]
        held = [self.tokenizer_hash, list(self.weights.values()), shards]
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

    def split(self, name: str) -> "Split":
        """One of the splits "train" and "valid"."""
        parts = []
        for (directory, weight), manifest in zip(self.weights.items(), self.manifests, strict=True):
            shards = [IndexedReader(directory / shard["name"]) for shard in manifest["splits"][name]["shards"]]
            if not sum(len(shard.tokens) for shard in shards):
                raise UserError(f"the {name} split of {directory} is empty; prepare the corpus again")
            parts.append((shards, weight))
        return Split(name, parts)


def _read_mixture(path: Path) -> dict[Path, float]:
    """Directories, relative to the file's own directory, and their weights."""
    try:
        mixture = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not a mixture of corpora: it must consist of YAML lines `directory: weight`"
        ) from error
    if not isinstance(mixture, dict) or not mixture:
        raise UserError(f"{path} is not a mixture of corpora: it must consist of YAML lines `directory: weight`")
    for directory, weight in mixture.items():
        if not isinstance(weight, int | float) or not weight > 0:
            raise UserError(f"{path}: the weight {weight!r} of {directory} must be a number above 0")
    return {path.parent / str(directory): float(weight) for directory, weight in mixture.items()}


def tokenizer_name(manifest: dict) -> str:
    """The file of the tokenizer. Earlier versions had one kind."""
    return manifest["tokenizer"].get("file", "tokenizer.json")


def _read_manifest(directory: Path) -> dict:
    """The manifest, if the directory's tokenizer is the one it names."""
    manifest_path, tokenizer_path = directory / "manifest.json", saved_tokenizer(directory)
    if not directory.is_dir():
        raise UserError(f"corpus {directory} does not exist; make it with the verb prepare")
    if (directory / "state.json").exists():
        raise UserError(f"corpus {directory} is incomplete; run prepare with the same options to finish it")
    if not manifest_path.is_file() or tokenizer_path is None:
        raise UserError(
            f"{directory} is not a prepared corpus: it lacks manifest.json or its tokenizer; "
            "make one with the verb prepare"
        )
    try:
        manifest = json.loads(manifest_path.read_text("utf-8"))
        check_manifest(manifest)
    except (ValueError, RecursionError, UserError) as error:
        why = f" ({error})" if isinstance(error, UserError) else ""
        raise UserError(f"{manifest_path} is not the manifest of a prepared corpus{why}; prepare it again") from error
    expected = manifest["tokenizer"]["hash"]
    tokenizer_path = directory / tokenizer_name(manifest)
    found = tokenizer_hash(tokenizer_path)
    if found != expected:
        raise UserError(
            f"the vocabulary in {tokenizer_path} (hash {found[:12]}) does not match that of the shards, "
            f"{expected[:12]}; put the right one back or prepare the corpus again"
        )
    return manifest


class Split:
    """The documents of an epoch: each one once, or in a mixture as often as the weight of its corpus says.

    They are numbered from 0, corpus by corpus. All arrays are int64.
    """

    def __init__(self, name: str, parts: list[tuple[list[IndexedReader], float]]) -> None:
        self.name = name
        self.shards = [shard for shards, _ in parts for shard in shards]
        self._first_in_shard = np.cumsum([0, *(shard.num_documents for shard in self.shards)])
        sizes = [sum(shard.num_documents for shard in shards) for shards, _ in parts]
        counts = [max(1, round(size * weight)) for size, (_, weight) in zip(sizes, parts, strict=True)]
        self._part_sizes = np.array(sizes)
        self._part_counts = np.array(counts)  # documents of an epoch
        self._first_in_part = np.cumsum([0, *sizes])
        self._first_in_epoch = np.cumsum([0, *counts])
        self.num_documents = int(self._first_in_epoch[-1])
        self.num_tokens = sum(round(weight * sum(len(shard.tokens) for shard in shards)) for shards, weight in parts)
        """Of an epoch; for a mixture about."""
        self.num_on_disk = int(self._first_in_shard[-1])
        """Documents, each counted once."""

    def locate(self, documents: np.ndarray, epoch: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For documents [D] of an epoch: their shard, the place of their first token in it, their length in tokens."""
        shard, first, last = self._sentences(documents, epoch)
        start = self.sentence_starts(shard, first)
        return shard, start, self.sentence_starts(shard, last) - start

    def random_sentence(
        self, documents: np.ndarray, epoch: int, hashes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A sentence of each document: its shard, its first token, and the end of its document."""
        shard, first, last = self._sentences(documents, epoch)
        sentence = first + below(hashes, last - first)
        return shard, self.sentence_starts(shard, sentence), self.sentence_starts(shard, last)

    def inside_another(
        self, documents: np.ndarray, epoch: int, hashes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A place in a document other than each: its shard, its token, and the end of its document.

        It is the beginning of a sentence, but not of the first; any later token where there is one sentence.
        """
        number = (self._on_disk(documents, epoch) + 1 + below(hashes, self.num_on_disk - 1)) % self.num_on_disk
        shard, first, last = self._sentences_on_disk(number)
        begin, end = self.sentence_starts(shard, first), self.sentence_starts(shard, last)
        place = hash_of(hashes)
        sentence = first + 1 + below(place, np.maximum(last - first - 1, 1))
        token = np.maximum(begin, np.minimum(begin + 1 + below(place, np.maximum(end - begin - 1, 1)), end - 1))
        return shard, np.where(last - first > 1, self.sentence_starts(shard, sentence), token), end

    def sentences_between(self, shard: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of the first sentence that starts at `begin` or later, and how many start before `end`."""
        spans = np.stack([begin, end], axis=1)
        first, after = self._by_shard(shard, lambda reader, spans: reader.sentences_between(spans), spans).T
        return first, after - first

    def sentence_starts(self, shard: np.ndarray, sentences: np.ndarray) -> np.ndarray:
        """The position of each sentence's first token."""
        return self._by_shard(shard, lambda reader, numbers: reader.sentence_starts(numbers), sentences)

    def _sentences(self, documents: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For documents of an epoch: their shard, their first sentence in it, and the one after their last."""
        return self._sentences_on_disk(self._on_disk(documents, epoch))

    def _sentences_on_disk(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shard = np.searchsorted(self._first_in_shard, number, side="right") - 1
        within = number - self._first_in_shard[shard]
        first = self._by_shard(shard, lambda reader, numbers: reader.document_sentences[numbers], within)
        last = self._by_shard(shard, lambda reader, numbers: reader.document_sentences[numbers + 1], within)
        return shard, first, last

    def _on_disk(self, documents: np.ndarray, epoch: int) -> np.ndarray:
        """The number, over all shards, of each document of an epoch.

        Every part is gone through round after round, each round all of it, in whatever shares the epochs take.
        """
        if np.array_equal(self._part_counts, self._part_sizes):
            return documents
        part = np.searchsorted(self._first_in_epoch, documents, side="right") - 1
        passed = epoch * self._part_counts[part] + documents - self._first_in_epoch[part]
        number = np.empty_like(documents)
        for which in np.unique(part):
            here, size = part == which, int(self._part_sizes[which])
            number[here] = self._first_in_part[which] + permuted(passed[here] % size, size, _ROUND_ORDER)
        return number

    def _by_shard(
        self, shard: np.ndarray, look_up: Callable[[IndexedReader, np.ndarray], np.ndarray], keys: np.ndarray
    ) -> np.ndarray:
        if len(self.shards) == 1:
            return look_up(self.shards[0], keys)
        values = np.empty(keys.shape, np.int64)
        for number in np.unique(shard):
            here = shard == number
            values[here] = look_up(self.shards[number], keys[here])
        return values
