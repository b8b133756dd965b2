"""One chunk of raw text becomes tokenized documents. This is what runs in every worker process."""

import hashlib
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from pretrain.data.documents import documents_of
from pretrain.data.encoding import Encoder
from pretrain.data.options import PrepareOptions
from pretrain.data.sentences import split_sentences
from pretrain.data.shards import Documents
from pretrain.data.sources import Block


@dataclass(frozen=True)
class TokenizedChunk:
    documents: Documents
    hashes: np.ndarray  # [D] uint64, of each document's text
    counts: Counter
    """What was left out or repaired, by reason."""
    num_bytes: int
    num_disk_bytes: int


class Worker:
    def __init__(self, tokenizer_json: str, options: PrepareOptions) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
        self._encoder = Encoder(Tokenizer.from_str(tokenizer_json))
        self._options = options

    def tokenize(self, chunk: list[Block]) -> TokenizedChunk:
        counts = Counter()
        texts = list(chain.from_iterable(documents_of(block, self._options.text_format, counts) for block in chunk))
        hashes = np.array([text_hash(text) for text in texts], np.uint64)
        sentences = [split_sentences(text) for text in texts]
        tokens, lengths = self._encoder.encode(list(chain.from_iterable(sentences)))
        document = np.repeat(np.arange(len(texts)), [len(of_document) for of_document in sentences])[lengths > 0]
        num_sentences = np.bincount(document, minlength=len(texts))
        lengths = lengths[lengths > 0]
        num_tokens = np.bincount(document, lengths, len(texts))

        kept = num_tokens > 0
        counts["untokenized"] += int((~kept).sum())
        counts["too_short"] += int((kept & (num_tokens < self._options.min_tokens)).sum())
        kept &= num_tokens >= self._options.min_tokens
        if self._options.max_tokens:
            counts["too_long"] += int((num_tokens > self._options.max_tokens).sum())
            kept &= num_tokens <= self._options.max_tokens
        return TokenizedChunk(
            Documents(tokens, lengths.astype(np.int32), num_sentences).select(kept),
            hashes[kept],
            +counts,
            sum(block.num_bytes for block in chunk),
            sum(block.num_disk_bytes for block in chunk),
        )


def text_hash(text: str) -> int:
    """64 bits that tell documents apart: for duplicates, and for the split."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


_worker: Worker


def start_process(tokenizer_json: str, options: PrepareOptions) -> None:
    """Runs first in every worker process."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _worker = Worker(tokenizer_json, options)


def run_in_process(chunk: list[Block]) -> TokenizedChunk:
    return _worker.tokenize(chunk)


def _end_with(parent: int) -> None:
    """A parent that is killed cannot end its workers; they would wait for chunks for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
