"""Rows that another process reads: those of `TrainingData`, whatever a stage, a signal or a mistake does in between."""

import os
import select
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from model.batch import Batch
from model.errors import UserError
from pretrain.data import Corpus, DataPosition, Masking, Sampling
from pretrain.data.ahead import Asked, ReadingProcess, RowsAhead, Share, StageRows

START = DataPosition()


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    def tensors(batches: list[Batch]) -> list[torch.Tensor]:
        return [tensor for batch in batches for _, tensor in sorted(batch.tensors().items())]

    pairs = zip(tensors(ours), tensors(theirs), strict=True)
    return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)


def test_another_process_reads_the_same_rows(corpus: Corpus, tmp_path: Path) -> None:
    corpus = Corpus.open(shutil.copytree(corpus.directory, tmp_path / "corpus"))
    for file in (corpus.directory / "manifest.json", corpus.files.tokenizer_path):
        file.unlink()  # nobody reads them again
    process = ReadingProcess(corpus.files)
    os.kill(process._process.pid, signal.SIGTERM)  # for the rank: it arrives before the process has begun
    try:
        position = START
        for length in (32, 64):  # the second stage begins while a batch of the first is still read
            sampling = Sampling(pack=True, sentence_pairs="nsp")
            rows = StageRows(5, length, Masking(whole_word=True), sampling)
            plain, ahead = rows.open(corpus, position), RowsAhead(process, rows, position)
            for _ in range(10):
                assert same(ahead.next(24, 4, 1, 3), plain.next(24, 4, 1, 3))
                ahead.ask(Share(24, 4, 1, 3))
                assert ahead.position == plain.position
            position = plain.position

        mistaken = RowsAhead(process, StageRows(5, 2, Masking(), Sampling()), START)
        with pytest.raises(UserError, match="sequence") as mistake:
            mistaken.next(24, 4, 1, 3)
        if sys.version_info >= (3, 11):
            assert "in serve\n" in mistake.value.__notes__[0]  # where in the process it was
        process._process.kill()
        with pytest.raises(RuntimeError, match="ended with exit code -9"):
            ahead.next(24, 4, 1, 3)
    finally:
        process.close()


def test_a_process_killed_in_the_middle_of_an_answer_is_named(corpus: Corpus) -> None:
    process, share = ReadingProcess(corpus.files), Share(4096, 64, 0, 1)
    try:
        asked = Asked(StageRows(5, 64, Masking(), Sampling()), START, share)
        process.ask(asked)
        pipe = process._process.stdout
        assert pipe is not None
        select.select([pipe], [], [])  # it has begun to answer, with more than a pipe holds
        process._process.kill()
        with pytest.raises(RuntimeError, match="ended with exit code -9"):
            process.answer(asked)
    finally:
        process.close()
