"""One chunk of raw text becomes tokenized documents. This is what runs in every worker process."""

import hashlib
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from model.errors import UserError
from pretrain.data.text.documents import documents_of
from pretrain.data.text.encoding import Encoder
from pretrain.data.text.options import PrepareOptions
from pretrain.data.text.sentences import split_sentences
from pretrain.data.text.shards import Documents
from pretrain.data.text.sources.base import Block
from pretrain.data.text.sources.megatron import TokenBlock
from pretrain.data.text.tokenizer import TextTokenizer, tokenizer_of

_SAMPLE_LENGTH = 2_000
"""Characters of a document of each chunk, chosen by chance, whose ids are checked against the library."""


@dataclass(frozen=True)
class TokenizedChunk:
    documents: Documents
    hashes: np.ndarray  # [D] uint64, of each document's text
    counts: Counter
    """Skipped and repaired input, by reason."""
    num_bytes: int
    num_disk_bytes: int
    held_out: bool = False
    """Whether it is of the text that `--valid` names."""


class Worker:
    def __init__(self, tokenizer: TextTokenizer, options: PrepareOptions) -> None:
        # The processes are the parallelism, and a fork has none of its parent's threads.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        tokenizer = tokenizer_of(tokenizer.file_name, tokenizer.content)
        self._tokenizer, self._encoder = tokenizer, Encoder(tokenizer)
        special = tokenizer.special
        self._is_special = np.zeros(len(tokenizer.tokens), bool)
        self._is_special[[special.pad, special.cls, special.sep, special.mask]] = True
        self._options = options

    def tokenize(self, chunk: list[Block]) -> TokenizedChunk:
        counts: Counter[str] = Counter()
        texts = list(chain.from_iterable(documents_of(block, self._options.text_format, counts) for block in chunk))
        parts = [self.encode(texts), *(self._adopt(block.content) for block in chunk if isinstance(block, TokenBlock))]
        documents = Documents.concatenate([documents for documents, _ in parts])
        hashes = np.concatenate([hashes for _, hashes in parts])
        kept = self.are_kept(documents, counts)
        return TokenizedChunk(
            documents.select(kept),
            hashes[kept],
            +counts,
            sum(block.num_bytes for block in chunk),
            sum(block.num_disk_bytes for block in chunk),
            chunk[0].held_out,
        )

    def are_kept(self, documents: Documents, counts: Counter) -> np.ndarray:
        """[D] bool: those with enough tokens and not too many. The others are added to `counts`, by reason."""
        num_tokens = documents.num_tokens
        kept = num_tokens > 0
        counts["untokenized"] += int((~kept).sum())
        counts["too_short"] += int((kept & (num_tokens < self._options.min_tokens)).sum())
        kept &= num_tokens >= self._options.min_tokens
        if self._options.max_tokens:
            counts["too_long"] += int((num_tokens > self._options.max_tokens).sum())
            kept &= num_tokens <= self._options.max_tokens
        return kept

    def encode(self, texts: list[str]) -> tuple[Documents, np.ndarray]:
        """Documents with their hashes, [D] uint64."""
        sentences = [self._sentences_of(text) for text in texts]
        documents = self._encoder.encode(texts, sentences)
        hashes = np.array([text_hash(text.encode("utf-8")) for text in texts], np.uint64)
        if texts:
            sample = texts[hashes.argmin()][:_SAMPLE_LENGTH]
            self._encoder.check(sample, self._sentences_of(sample))
        return documents, hashes

    def _sentences_of(self, text: str) -> list[str]:
        return split_sentences(text, self._options.language, self._options.one_a_line)

    def _adopt(self, documents: Documents) -> tuple[Documents, np.ndarray]:
        """Tokens that another program made: special ones, such as an end of document, go. Raises UserError when an id
        is none of the vocabulary's."""
        highest = int(documents.tokens.max(initial=0))
        if highest >= len(self._is_special):
            raise UserError(
                f"a shard holds the token {highest}, but the vocabulary {self._options.vocab} has "
                f"{len(self._is_special)}; give the one that it was made with"
            )
        keep = ~self._is_special[documents.tokens]
        sentence = np.repeat(np.arange(len(documents.sentence_lengths)), documents.sentence_lengths)
        lengths = np.bincount(sentence[keep], minlength=len(documents.sentence_lengths))
        document = np.repeat(np.arange(len(documents.num_sentences)), documents.num_sentences)
        num_sentences = np.bincount(document[lengths > 0], minlength=len(documents.num_sentences))
        cleaned = Documents(
            documents.tokens[keep].astype(self._encoder.dtype),
            lengths[lengths > 0].astype(np.int32),
            num_sentences,
            self._opens_after_blank[documents.tokens[keep]] if self._tokenizer.stores_words else None,
        )
        ends = np.cumsum(cleaned.num_tokens)
        texts = np.split(cleaned.tokens, ends[:-1])
        return cleaned, np.array([text_hash(tokens.tobytes()) for tokens in texts], np.uint64)

    @cached_property
    def _opens_after_blank(self) -> np.ndarray:
        """[vocab] bool: where a word opens in shards that do not say it: as good as their tokens tell."""
        texts = (self._tokenizer.decode([id]) for id in range(len(self._tokenizer.tokens)))
        return np.array([text[:1].isspace() for text in texts])


def text_hash(text: bytes) -> int:
    """64 bits that tell documents apart: for duplicates, and for the split."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


_worker: Worker


def start_process(tokenizer: TextTokenizer, options: PrepareOptions) -> None:
    """Runs first in every worker process."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _worker = Worker(tokenizer, options)


def run_in_process(chunk: list[Block]) -> TokenizedChunk:
    return _worker.tokenize(chunk)


def _end_with(parent: int) -> None:
    """A parent that is killed cannot end its workers; they would wait for chunks for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
