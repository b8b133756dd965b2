"""Text -> documents -> sentences -> tokens -> shards: what `prepare` does, once, before any training.

One process reads, several tokenize, one writes, chunk by chunk and in order; so the result depends neither on the
number of workers nor on whether the run was killed and resumed, and only a few chunks are in memory at any size.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context

from model.errors import UserError
from pretrain.data.text import output
from pretrain.data.text.options import PrepareOptions, Progress
from pretrain.data.text.reading import Input, all_inputs, read_chunks
from pretrain.data.text.sources.base import Block
from pretrain.data.text.tokenizer import (
    TextTokenizer,
    load_tokenizer,
    save_tokenizer,
)
from pretrain.data.text.unknown import check_sample
from pretrain.data.text.vocabulary import train_vocabulary
from pretrain.data.text.worker import TokenizedChunk, Worker, run_in_process, start_process
from pretrain.data.text.writing import Job, existing, list_inputs, saved
from pretrain.settings.hub import local_folder


def prepare(options: PrepareOptions, progress: Callable[[Progress], None] = lambda _: None) -> dict:
    """Writes the corpus directory and returns its manifest. A finished corpus is kept, a killed run is continued.

    Raises UserError when a source is missing, empty or without the column, when the split leaves a side without
    documents, or when the directory holds something else.
    """
    options.check()
    directory = options.output
    assert directory is not None
    if manifest := existing(directory / "manifest.json", options):
        shutil.rmtree(directory / "tasks", ignore_errors=True)  # of a job that nobody waited for
        return manifest
    inputs = all_inputs(options.sources, options.valid)
    with output.opened(directory):
        if manifest := existing(directory / "manifest.json", options):  # of another prepare that has just ended
            return manifest
        return _prepare(options, inputs, progress)


def _prepare(options: PrepareOptions, inputs: list[Input], progress: Callable[[Progress], None]) -> dict:
    """In a directory that is empty, or holds what a killed run left."""
    directory = options.output
    assert directory is not None
    state = existing(directory / "state.json", options)
    if state and state["inputs"] != list_inputs(inputs):
        raise UserError(f"the sources have changed since {directory} was begun; remove it and prepare again")
    if state:
        tokenizer = saved(options, state)
    else:
        to_train_on = [source for source in inputs if not source.held_out]
        tokenizer = _given(options) if options.vocab else train_vocabulary(options, to_train_on, progress)
        check_sample(options, inputs, tokenizer)
        save_tokenizer(tokenizer, directory)
    if options.in_tasks:
        from pretrain.data.text.tasks.stages import run_tasks

        if not state:
            Job(options, inputs, tokenizer, None)  # leaves the state that its tasks begin from
        return run_tasks(options, inputs, progress)
    job = Job(options, inputs, tokenizer, state)
    try:
        chunks = islice(read_chunks(inputs, options.text_format), job.num_chunks, None)
        job.run(_tokenized(chunks, tokenizer, options), progress)
    except UserError:
        if job.num_chunks == 0:
            output.remove(directory)
        raise
    return job.finish()


def _tokenized(
    chunks: Iterable[list[Block]], tokenizer: TextTokenizer, options: PrepareOptions
) -> Iterator[TokenizedChunk]:
    """The chunks tokenized, in order, by as many processes as asked for, a few chunks ahead."""
    arguments = (tokenizer, options)
    if options.workers == 1:
        yield from map(Worker(*arguments).tokenize, chunks)
        return
    # Forked workers share the parent's imports: they start at once and cost little memory.
    pool = ProcessPoolExecutor(options.workers, get_context("fork"), start_process, arguments)
    try:
        waiting: deque[Future[TokenizedChunk]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(run_in_process, chunk))
            if len(waiting) > 2 * options.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker of prepare was killed, perhaps for memory; the same command with a num_workers below "
            f"{options.workers} resumes from here"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _given(options: PrepareOptions) -> TextTokenizer:
    """Raises UserError when the vocabulary is broken, or an option contradicts it."""
    assert options.vocab is not None
    if options.tokenizer != PrepareOptions.tokenizer:
        raise UserError(f"--tokenizer {options.tokenizer} trains a vocabulary and --vocab gives one; leave one out")
    tokenizer = load_tokenizer(local_folder(options.vocab), options.lowercase)
    if options.vocab_size != PrepareOptions.vocab_size and len(tokenizer.tokens) > options.vocab_size:
        raise UserError(
            f"--vocab-size {options.vocab_size} contradicts {options.vocab}, which has {len(tokenizer.tokens)} tokens; "
            "leave it out"
        )
    return tokenizer
