"""A vocabulary from the beginnings of all inputs.

Trained in a process of its own: it needs several times the sample in memory, which must be free again when the workers
start.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection

from tokenizers import Tokenizer

from model.errors import UserError
from pretrain.data.documents import documents_of
from pretrain.data.options import PrepareOptions, Progress
from pretrain.data.sources import Input, read_blocks
from pretrain.data.tokenizer import train_tokenizer


def train_vocabulary(options: PrepareOptions, inputs: list[Input], progress: Callable[[Progress], None]) -> Tokenizer:
    """Raises UserError when there is no text, or it does not suit the options."""
    if shards := [source.name for source in inputs if source.name.endswith(".idx")]:
        raise UserError(f"{shards[0]} is tokenized already; give its vocabulary with --vocab")
    context = get_context("fork")
    ours, theirs = context.Pipe()
    trainer = context.Process(target=_train, args=(theirs, ours, options), daemon=True)
    trainer.start()
    theirs.close()
    try:
        for texts in _beginnings(options, inputs, progress):
            ours.send(texts)
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


def _train(connection: Connection, parents_end: Connection, options: PrepareOptions) -> None:
    """Gathers texts until None comes; answers with the tokenizer's JSON, or with a UserError."""
    parents_end.close()  # else the parent's closing it would not be seen here
    texts: list[str] = []
    try:
        while (more := connection.recv()) is not None:
            texts += more
        connection.send(train_tokenizer(options.tokenizer, texts, options.vocab_size, options.lowercase).to_str())
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
