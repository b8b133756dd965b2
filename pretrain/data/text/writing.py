"""Writing a corpus from chunks of tokens, so that it can be stopped after any of them and continued."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from model.errors import UserError
from pretrain.data.text import output
from pretrain.data.text.documents import describe
from pretrain.data.text.duplicates import SeenDocuments
from pretrain.data.text.encoding import ENCODED
from pretrain.data.text.indexed import token_dtype
from pretrain.data.text.options import PrepareOptions, Progress
from pretrain.data.text.reading import Input
from pretrain.data.text.sentences import described
from pretrain.data.text.shards import Documents, SplitWriter
from pretrain.data.text.tokenizer import TextTokenizer, read_tokenizer, saved_tokenizer, tokenizer_hash
from pretrain.data.text.unknown import check_share
from pretrain.data.text.worker import TokenizedChunk

SPLITS = ("train", "valid")
IN_BOTH = "documents_in_both"
"""In the manifest: how many documents to train on have the text of one that is held out."""
_SECONDS_BETWEEN_SAVES = 5.0


def write_chunks(options: PrepareOptions, inputs: list[Input], chunks: Iterable[TokenizedChunk]) -> None:
    """Writes the corpus from all of its chunks, tokenized elsewhere, or what is left of it to write."""
    assert options.output is not None
    state = existing(options.output / "state.json", options)
    assert state is not None, "its directory and tokenizer are made where prepare is called"
    job = Job(options, inputs, saved(options, state), state)
    job.run(islice(chunks, job.num_chunks, None))
    job.finish()


class Job:
    """Writing a corpus, from its start or from the state that a killed run left behind."""

    def __init__(
        self, options: PrepareOptions, inputs: list[Input], tokenizer: TextTokenizer, state: dict | None
    ) -> None:
        self._options, self._inputs, self._tokenizer = options, inputs, tokenizer
        assert options.output is not None
        self._directory = options.output
        arguments = (token_dtype(len(tokenizer.tokens)), options.shard_tokens, tokenizer.stores_words)
        self._writers = {name: SplitWriter(self._directory, name, *arguments) for name in SPLITS}
        self.num_chunks = 0
        self._counts: Counter[str] = Counter()
        self._num_unknown = 0
        self._progress = Progress("tokens", total_disk_bytes(inputs))
        if state:
            self.num_chunks, self._counts = state["num_chunks"], Counter(state["counts"])
            self._num_unknown = state["num_unknown"]
            self._progress.resume(**state["progress"])
            for name, writer in self._writers.items():
                writer.restore(state["writers"][name])
        self._seen = SeenDocuments(self._directory / "seen.hashes", state["num_seen"] if state else 0)
        self._save()

    def run(self, chunks: Iterable[TokenizedChunk], progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Writes the chunks after the first `num_chunks`."""
        last_save = time.monotonic()
        for chunk in chunks:
            self._write(chunk)
            progress(self._progress)
            if time.monotonic() - last_save > _SECONDS_BETWEEN_SAVES:
                self._save()
                last_save = time.monotonic()

    def _write(self, chunk: TokenizedChunk) -> None:
        is_valid = self._are_held_out(chunk)
        new = self._are_new(chunk)
        for name, chosen in zip(SPLITS, (new & ~is_valid, new & is_valid), strict=True):
            documents = chunk.documents.select(chosen)
            if self._options.document_tokens:
                documents = cut_documents(documents, self._options.document_tokens)
            self._writers[name].append(documents)
            self._num_unknown += int(np.count_nonzero(documents.tokens == self._tokenizer.special.unk))
        self._counts.update(chunk.counts)
        self._counts["duplicates"] += int((~new).sum())
        self.num_chunks += 1
        self._progress.megabytes += chunk.num_bytes / 1e6
        self._progress.disk_bytes += chunk.num_disk_bytes
        self._progress.num_documents += int(new.sum())

    def _are_held_out(self, chunk: TokenizedChunk) -> np.ndarray:
        """[D] bool."""
        if self._options.valid:
            return np.full(len(chunk.hashes), chunk.held_out)
        return chunk.hashes < np.uint64(self._options.valid_share * 2**64)

    def _are_new(self, chunk: TokenizedChunk) -> np.ndarray:
        """[D] bool: which are not left out as duplicates. Held-out text of the user's own comes first, and is kept."""
        if self._options.deduplicate:
            return self._seen.are_new(chunk.hashes)
        if chunk.held_out:
            self._seen.are_new(chunk.hashes)
        elif self._options.valid:
            self._counts[IN_BOTH] += int(self._seen.are_known(chunk.hashes).sum())
        return np.ones(len(chunk.hashes), bool)

    def _save(self) -> None:
        """Replaces state.json: everything up to here is on disk."""
        done = self._progress
        state = {
            "options": self._options.that_matter(),
            "inputs": list_inputs(self._inputs),
            "num_chunks": self.num_chunks,
            "counts": +self._counts,
            "num_unknown": self._num_unknown,
            "encoded": ENCODED,
            "sentences": described(self._options.language, self._options.one_a_line),
            "num_seen": len(self._seen),
            "progress": dict(megabytes=done.megabytes, disk_bytes=done.disk_bytes, num_documents=done.num_documents),
            "writers": {name: writer.state() for name, writer in self._writers.items()},
        }
        output.replace(self._directory / "state.json", json.dumps(state).encode())

    def finish(self) -> dict:
        """Closes the shards and writes the manifest; the working files go."""
        num_tokens = sum(writer.num_tokens for writer in self._writers.values())
        self._save()  # a refusal leaves all of it to a command that accepts it
        unknown_share = self._num_unknown / max(1, num_tokens)
        check_share(unknown_share, self._options)
        splits = {name: writer.finish() for name, writer in self._writers.items()}
        for name, split in splits.items():
            if split["num_documents"] == 0:
                output.remove(self._directory)
                raise self._nothing_in(name)
            for shard in split["shards"]:
                for suffix in (".bin", ".idx", ".words")[: 3 if self._tokenizer.stores_words else 2]:
                    shard[f"sha256{suffix}"] = file_sha256(self._directory / (shard["name"] + suffix))
        manifest = {
            "format": 1,
            "source": {
                "names": list(self._options.sources),
                "inputs": list_inputs(source for source in self._inputs if not source.held_out),
                "licence": self._options.licence,
                **self._held_out(),
            },
            "tokenizer": {
                "vocab_size": len(self._tokenizer.tokens),
                "hash": tokenizer_hash(self._directory / self._tokenizer.file_name),
                "file": self._tokenizer.file_name,
                "encoded": ENCODED,
                "lowercase": self._tokenizer.lowers_case,
                "unknown_share": unknown_share,
            },
            "sentences": described(self._options.language, self._options.one_a_line),
            "splits": splits,
            "left_out_or_repaired": dict(sorted((+self._counts).items())),
            "options": self._options.that_matter(),
        }
        output.replace(self._directory / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
        self._seen.remove()
        (self._directory / "state.json").unlink()
        return manifest

    def _held_out(self) -> dict:
        """What the manifest says of held-out text of the user's own."""
        if not self._options.valid:
            return {}
        return {
            "held_out": {
                "names": list(self._options.valid),
                "inputs": list_inputs(source for source in self._inputs if source.held_out),
                IN_BOTH: self._counts.pop(IN_BOTH, 0),
            }
        }

    def _nothing_in(self, split: str) -> UserError:
        left_out = describe(self._counts)
        if self._options.valid:
            reason = "look at the files named by " + ("--valid" if split == "valid" else "sources")
        else:
            reason = f"the corpus is too small, or valid_share {self._options.valid_share} does not suit it"
        return UserError(
            f"of {self._progress.num_documents} documents with text none fell into the {split} split: {reason}"
            + (f" (skipped or repaired: {left_out})" if left_out else "")
        )


def cut_documents(documents: Documents, document_tokens: int) -> Documents:
    """Each document longer than the limit becomes several of about equal length, cut at sentence ends."""
    if len(documents.num_sentences) == 0:
        return documents
    lengths = documents.sentence_lengths.astype(np.int64)
    document = np.repeat(np.arange(len(documents.num_sentences)), documents.num_sentences)
    document_length = documents.num_tokens[document]
    start = np.cumsum(lengths) - lengths
    opens_document = np.diff(document, prepend=-1) > 0
    middle = start - start[opens_document][document] + lengths / 2
    part = np.floor(middle / document_length * np.ceil(document_length / document_tokens))
    opens_part = opens_document | (np.diff(part, prepend=0) > 0)
    num_sentences = np.diff(np.append(np.flatnonzero(opens_part), len(lengths)))
    return Documents(documents.tokens, documents.sentence_lengths, num_sentences)


def total_disk_bytes(inputs: list[Input]) -> int | None:
    sizes = [source.num_bytes for source in inputs if source.num_bytes is not None]
    return sum(sizes) if len(sizes) == len(inputs) else None


def file_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def existing(file: Path, options: PrepareOptions) -> dict | None:
    """The JSON of an earlier run with equal options; UserError when the options differ."""
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
        options_then = {**options.when_left_out(), **found["options"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged; remove {file.parent} and prepare again") from error
    options_then.pop("allow_unknown", None)  # of earlier versions
    if options_then != options.that_matter():
        raise UserError(f"{file.parent} holds a corpus prepared with other options; choose another output or remove it")
    return found


def saved(options: PrepareOptions, state: dict) -> TextTokenizer:
    """That of a killed run. Raises UserError where what is left would get other ids, or other sentences."""
    directory = options.output
    assert directory is not None
    sentences = described(options.language, options.one_a_line)
    if (state.get("encoded"), state.get("sentences")) != (ENCODED, sentences):
        raise UserError(f"{directory} was begun by another version; remove it and prepare again")
    file = saved_tokenizer(directory)
    if file is None:
        raise UserError(f"{directory} has lost its tokenizer; remove it and prepare again")
    return read_tokenizer(file)


def list_inputs(inputs: Iterable[Input]) -> list[list]:
    return [[source.name, source.num_bytes] for source in inputs]
