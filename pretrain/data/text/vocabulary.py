"""Trains a vocabulary on the beginnings of all inputs.

Large samples are trained on in a separate process: training needs several times the sample in memory, which must be
free again when the workers start.
"""

import json
import os
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from subprocess import PIPE

from model.errors import UserError
from pretrain.data.text.documents import documents_of
from pretrain.data.text.options import PrepareOptions, Progress
from pretrain.data.text.reading import Input, read_blocks
from pretrain.data.text.tokenizer import TextTokenizer, tokenizer_of, train_tokenizer

IN_THIS_PROCESS = 8_000_000
"""Samples with fewer characters are not worth a separate process."""


def train_vocabulary(
    options: PrepareOptions, inputs: list[Input], progress: Callable[[Progress], None]
) -> TextTokenizer:
    """Raises UserError if there is no text, or the options do not fit it."""
    if shards := [source.name for source in inputs if source.is_tokenized]:
        raise UserError(f"{shards[0]} is tokenized already; give its vocabulary with --vocab")
    blocks = _beginnings(options, inputs, progress)
    texts: list[str] = []
    num_characters = 0
    for more in blocks:
        texts += more
        num_characters += sum(map(len, more))
        if num_characters > IN_THIS_PROCESS:
            return _train_apart(chain([texts], blocks), options)
    return _train(texts, options)


def _train(texts: list[str], options: PrepareOptions) -> TextTokenizer:
    return train_tokenizer(options.tokenizer, texts, options.vocab_size, options.lowercase)


def _train_apart(texts: Iterable[list[str]], options: PrepareOptions) -> TextTokenizer:
    """In a new process that knows nothing of the script that called: it may have no guard or come from standard input.

    The sample waits in a file, a block of texts on each line.
    """
    command = [sys.executable, "-c", f"from {__name__} import answer; answer()"]
    settings = dict(kind=options.tokenizer, vocab_size=options.vocab_size, lowercase=options.lowercase)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    with tempfile.TemporaryFile() as sample:
        sample.writelines(json.dumps(line).encode() + b"\n" for line in chain([settings], texts))
        sample.seek(0)
        trainer = subprocess.run(command, stdin=sample, stdout=PIPE, env=environment, start_new_session=True)
    if trainer.returncode:
        raise UserError(
            f"training the vocabulary was killed, perhaps for memory; lower vocab_sample_mb {options.vocab_sample_mb}"
        )
    trained = json.loads(trainer.stdout)
    if "mistake" in trained:
        raise UserError(trained["mistake"])
    return tokenizer_of(trained["file"], b64decode(trained["content"]))


def answer() -> None:
    """What the new process does: prints the tokenizer, or what is wrong with sample and settings."""
    settings, *blocks = map(json.loads, sys.stdin.buffer)
    try:
        tokenizer = train_tokenizer(texts=chain.from_iterable(blocks), **settings)
        trained = {"file": tokenizer.file_name, "content": b64encode(tokenizer.content).decode()}
    except UserError as error:
        trained = {"mistake": str(error)}
    print(json.dumps(trained))


def _beginnings(
    options: PrepareOptions, inputs: list[Input], progress: Callable[[Progress], None]
) -> Iterator[list[str]]:
    """Documents from the beginnings of all inputs, in equal parts."""
    state = Progress("vocabulary", None)
    for source in inputs:
        left = options.vocab_sample_mb * 1_000_000 // len(inputs)
        for block in read_blocks(source, options.text_format):
            documents = list(documents_of(block, options.text_format, Counter()))
            yield documents
            left -= block.num_bytes
            state.megabytes += block.num_bytes / 1e6
            state.num_documents += len(documents)
            progress(state)
            if left <= 0:
                break
    if state.num_documents == 0:
        raise UserError(f"corpus {', '.join(options.sources)} holds no document with text")
