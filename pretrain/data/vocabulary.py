"""A vocabulary from the beginnings of all inputs.

Trained in a process of its own where the sample is large: it needs several times the sample in memory, which must be
free again when the workers start.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection

from tokenizers import Tokenizer

from model.errors import UserError
from pretrain.data.documents import documents_of
from pretrain.data.options import PrepareOptions, Progress
from pretrain.data.sources import Input, read_blocks
from pretrain.data.tokenizer import train_tokenizer

IN_THIS_PROCESS = 8_000_000
"""Characters of a sample too small for a process of its own."""


def train_vocabulary(options: PrepareOptions, inputs: list[Input], progress: Callable[[Progress], None]) -> Tokenizer:
    """Raises UserError when there is no text, or it does not suit the options."""
    if shards := [source.name for source in inputs if source.name.endswith(".idx")]:
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


def _train(texts: list[str], options: PrepareOptions) -> Tokenizer:
    return train_tokenizer(options.tokenizer, texts, options.vocab_size, options.lowercase)


def _train_apart(texts: Iterable[list[str]], options: PrepareOptions) -> Tokenizer:
    """In a process of its own, spawned: a fork of one whose threads hold locks can wait for them for ever."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    trainer = context.Process(target=_answer, args=(theirs, options), daemon=True)
    trainer.start()
    theirs.close()
    try:
        for more in texts:
            ours.send(more)
        ours.send(None)
        trained = ours.recv()
    except (EOFError, BrokenPipeError) as error:
        raise UserError(
            f"training the vocabulary was killed, perhaps for memory; lower vocab_sample_mb {options.vocab_sample_mb}"
        ) from error
    finally:
        ours.close()
        trainer.join()
    if isinstance(trained, UserError):
        raise trained
    return Tokenizer.from_str(trained)


def _answer(connection: Connection, options: PrepareOptions) -> None:
    """Gathers texts until None comes; answers with the tokenizer's JSON, or with a UserError."""
    texts: list[str] = []
    try:
        while (more := connection.recv()) is not None:
            texts += more
        connection.send(_train(texts, options).to_str())
    except UserError as error:
        connection.send(error)
    except EOFError:
        pass  # the reader failed and says why


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
