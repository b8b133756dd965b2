"""Rows read ahead in a process of their own, one for each rank, so that a GPU's host has its time for launches.

To find and to deal a global batch of 65,536 rows takes a core tenths of a second, on however many ranks, and to make
this rank's rows more. They are a function of their position: the process is told one, and answers with the rows.
What one rank has read for all to open the corpus, it is told as well.
"""

import atexit
import os
import pickle
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from model.batch import Batch
from model.flat import Flat
from pretrain.data.batches import TrainingData
from pretrain.data.corpus import Corpus, CorpusFiles
from pretrain.data.index import DataPosition
from pretrain.data.masking import Masking
from pretrain.data.objective import Objective
from pretrain.data.sampling import Sampling
from pretrain.launch.leash import die_with_parent

_OF_THE_RANK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that all processes of a job may get. The rank acts on them, and still needs its rows."""


@dataclass(frozen=True)
class StageRows:
    """What the rows of a stage depend on, apart from the corpus and their position."""

    seed: int
    sequence_length: int
    masking: Masking
    sampling: Sampling
    objective: Objective = "mlm"

    def open(self, corpus: Corpus, start: DataPosition) -> TrainingData:
        how = self.masking, start, self.sampling
        return TrainingData(corpus, "train", self.seed, self.sequence_length, *how, objective=self.objective)


class Share(NamedTuple):
    """Of a global batch, what this rank takes: the arguments of `TrainingData.next`."""

    num_rows: int
    micro_batch: int
    rank: int
    num_ranks: int
    mask_rate: float | None = None


class Asked(NamedTuple):
    rows: StageRows
    position: DataPosition
    share: Share


class ReadingProcess:
    """Answers one question at a time, in order. It ends when this process does, or on `close`."""

    def __init__(self, files: CorpusFiles) -> None:
        command = [sys.executable, "-c", f"from {__name__} import serve; serve({os.getpid()})"]
        path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_RANK)  # the process inherits it
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._untold: CorpusFiles | None = files
        self._asked: Asked | None = None
        atexit.register(self.close)

    def ask(self, question: Asked) -> None:
        if self._asked is not None:  # for rows that nobody came for: their stage has ended
            self._receive()
        try:
            if self._untold is not None:  # not before: a pipe holds less, and the process is still starting
                pickle.dump(self._untold, self._questions)
                self._untold = None
            pickle.dump(question, self._questions)
            self._questions.flush()
        except BrokenPipeError:
            raise self._ended() from None
        self._asked = question

    def answer(self, question: Asked) -> tuple[list[Batch], DataPosition]:
        """Waits for the rows if they are not there yet; asks for them if nobody has."""
        if self._asked != question:
            self.ask(question)
        found = self._receive()
        if isinstance(found, Exception):
            raise found
        batches, position = found
        causal = question.rows.objective == "clm"
        return [Batch(**flat.tensors(), causal=causal) for flat in batches], position

    def close(self) -> None:
        atexit.unregister(self.close)
        self._process.kill()
        self._process.communicate()

    @property
    def _questions(self) -> Any:
        return self._process.stdin

    def _receive(self) -> Any:
        self._asked = None
        try:
            return pickle.load(cast(Any, self._process.stdout))
        except (EOFError, pickle.UnpicklingError):  # before an answer, or in the middle of one
            raise self._ended() from None

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"the process that reads rows ahead ended with exit code {self._process.wait()}")


class RowsAhead:
    """A stage's rows, as `TrainingData` gives them: while one global batch is used, the process reads the next.

    `ask` tells it to.
    """

    def __init__(self, process: ReadingProcess, rows: StageRows, start: DataPosition) -> None:
        self._process, self._rows, self.position = process, rows, start

    def next(
        self, num_rows: int, micro_batch: int, rank: int, num_ranks: int, mask_rate: float | None = None
    ) -> list[Batch]:
        share = Share(num_rows, micro_batch, rank, num_ranks, mask_rate)
        batches, self.position = self._process.answer(Asked(self._rows, self.position, share))
        return batches

    def ask(self, share: Share) -> None:
        """For the rows that come next."""
        self._process.ask(Asked(self._rows, self.position, share))


def serve(parent: int) -> None:
    """What the process does."""
    die_with_parent(parent)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with suppress(EOFError):  # the rank has ended
        corpus = Corpus.of(pickle.load(sys.stdin.buffer))
        reading: tuple[StageRows, TrainingData] | None = None
        while True:
            question: Asked = pickle.load(sys.stdin.buffer)
            try:
                if reading is None or (reading[0], reading[1].position) != (question.rows, question.position):
                    reading = question.rows, question.rows.open(corpus, question.position)
                data = reading[1]
                batches = data.next(*question.share)
                found: Any = [Flat.of(batch.tensors()) for batch in batches], data.position
            except Exception as error:
                if sys.version_info >= (3, 11):
                    error.add_note(traceback.format_exc())
                reading, found = None, error
            pickle.dump(found, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
