"""Positions: resuming, epochs, other sequence lengths, and what packing must not change."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from model.errors import UserError
from pretrain.data import Corpus, DataPosition, Sampling, index
from pretrain.data.index import RowIndex, Rows
from pretrain.data.pieces import Pieces

SAMPLINGS = [Sampling(), Sampling(pack=True), Sampling(pack=True, sentence_pairs="nsp", short_probability=0.1)]
START = DataPosition()


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_WINDOW_PIECES", 128)


def rows_from(corpus: Corpus, sampling: Sampling, start: DataPosition = START, length: int = 48) -> RowIndex:
    return RowIndex(corpus.split("train"), sampling, 11, length, start)


def ids(rows: Rows) -> list[tuple]:
    """Sample ids: (epoch, document, offset, length) of every piece, row by row."""
    p = rows.pieces
    return [tuple(map(int, piece)) for piece in zip(p.epoch, p.document, p.offset, p.num_tokens, rows.row, strict=True)]


def epoch_of(corpus: Corpus, index: RowIndex, num_rows: int = 7) -> tuple[Pieces, DataPosition]:
    """The pieces up to the end of the epoch, taken `num_rows` at a time, and the position when it was passed."""
    epoch, parts = index.position.epoch, []
    while index.position.epoch == epoch:
        parts.append(index.take(num_rows).pieces)
    pieces = Pieces.concatenate(parts)
    return pieces[pieces.epoch == epoch], index.position


def assert_all_text_once(corpus: Corpus, pieces: Pieces) -> None:
    split, unread = corpus.split("train"), pieces.unread()
    assert pieces.num_own.sum() == split.num_tokens
    assert np.array_equal(unread.document, np.arange(split.num_documents)) and (unread.offset == 0).all()


def test_windows_are_many(corpus: Corpus) -> None:
    rows = rows_from(corpus, Sampling(pack=True))
    positions = {(rows.take(1), rows.position)[1].document for _ in range(700)}
    assert len(positions) > 5


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_an_epoch_reads_every_document_once(corpus: Corpus, sampling: Sampling) -> None:
    rows = rows_from(corpus, sampling)
    for _ in range(3):
        pieces, _ = epoch_of(corpus, rows, num_rows=1)
        assert_all_text_once(corpus, pieces)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_resumed_run_sees_exactly_the_rest_also_in_epoch_two(corpus: Corpus, sampling: Sampling) -> None:
    uninterrupted = rows_from(corpus, sampling)
    num_checked_in_epoch_two = 0
    for step in range(280):
        if step % 13 == 0:
            position = DataPosition(**json.loads(json.dumps(asdict(uninterrupted.position))))
            assert position == uninterrupted.position
            expected = rows_from(corpus, sampling, uninterrupted.position)
            resumed = rows_from(corpus, sampling, position)
            for _ in range(15):
                assert ids(resumed.take(5)) == ids(expected.take(5))
            num_checked_in_epoch_two += position.epoch == 1
        before = uninterrupted.position
        rows = uninterrupted.take(5)
        assert ids(rows_from(corpus, sampling, before).take(5)) == ids(rows)
    assert num_checked_in_epoch_two >= 2


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("lengths", [(32, 64), (64, 32), (32, 64, 128), (64, 32, 64)], ids=str)
def test_when_the_length_changes_no_text_is_repeated_or_dropped(
    corpus: Corpus, sampling: Sampling, lengths: tuple[int, ...]
) -> None:
    rows = rows_from(corpus, sampling, length=lengths[0])
    parts = [rows.take(41).pieces]
    for length in lengths[1:-1]:  # short stages, all within one window
        rows = rows_from(corpus, sampling, rows.position, length)
        parts.append(rows.take(9).pieces)
        assert len(rows.position.taken) > 1
    at_last_boundary = rows.position
    rows = rows_from(corpus, sampling, at_last_boundary, lengths[-1])
    parts.append(rows.take(3).pieces)
    resumed = rows_from(corpus, sampling, rows.position, lengths[-1])  # inside the window that two stages share
    rest, _ = epoch_of(corpus, resumed)
    assert np.array_equal(rest.offset, epoch_of(corpus, rows)[0].offset)
    assert_all_text_once(corpus, Pieces.concatenate([*parts, rest]))


def test_packed_and_padded_rows_hold_the_same_sequences(corpus: Corpus) -> None:
    def sequences(pack: bool) -> set[tuple]:
        sampling = Sampling(pack=pack, sentence_pairs="nsp")
        pieces, _ = epoch_of(corpus, rows_from(corpus, sampling), num_rows=1)
        return set(zip(*(getattr(pieces, name).tolist() for name in pieces.__dataclass_fields__), strict=True))

    assert sequences(True) == sequences(False)


def test_packed_rows_are_full(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_WINDOW_PIECES", 4096)
    rows = rows_from(corpus, Sampling(pack=True), length=128).take(60)
    pieces = rows.pieces
    assert (pieces.num_tokens.sum() + 2 * len(pieces)) / (60 * 128) > 0.97


def test_rows_of_one_document_are_scattered(corpus: Corpus) -> None:
    rows = rows_from(corpus, Sampling(), length=24).take(100)
    neighbours = rows.pieces.document[1:] == rows.pieces.document[:-1]
    assert neighbours.mean() < 0.4


def test_impossible_demands_are_refused(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="at least 6"):
        rows_from(corpus, Sampling(sentence_pairs="nsp"), length=5)
