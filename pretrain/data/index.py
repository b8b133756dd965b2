"""Which sequences each row holds: a pure function of (seed, epoch, sequence length, start), one window at a time.

An epoch is a permutation of the documents. A *window* is a few thousand sequences of consecutive documents, assigned to
rows and shuffled. Nothing is drawn or stored: permutation and pieces are hashed when they are read, so starting in the
middle of the tenth epoch costs as much as starting at 0, one window.
"""

from dataclasses import dataclass, replace

import numpy as np

from model.errors import UserError
from pretrain.data.corpus import Split
from pretrain.data.hashing import hash_of, permuted
from pretrain.data.negatives import EXCHANGED
from pretrain.data.packing import pack
from pretrain.data.pieces import Pieces, Stretches
from pretrain.data.sampling import Sampling, cut

_WINDOW_PIECES = 4096
_ROW_ORDER = 5


@dataclass(frozen=True)
class DataPosition:
    """Where the next row starts. Plain numbers: `DataPosition(**json)` restores it."""

    epoch: int = 0
    document: int = 0
    """Documents before the window, in the order of this epoch's permutation."""
    taken: tuple[tuple[int, int], ...] = ()
    """Rows taken from the window: (sequence length, number of rows) for each stage that took some, in order."""

    draw: int = EXCHANGED
    """How wrong second sentences are found, from the beginning of the run to its end (`negatives.py`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "taken", tuple((int(length), int(number)) for length, number in self.taken))


@dataclass(frozen=True)
class Rows:
    """Pieces, in the order of their rows 0 .. num_rows - 1."""

    pieces: Pieces
    row: np.ndarray  # [P] ascending

    @property
    def num_rows(self) -> int:
        return int(self.row[-1]) + 1 if len(self.row) else 0

    def select(self, rows: np.ndarray) -> "Rows":
        """The given rows in the given order, renumbered from 0."""
        first, after = np.searchsorted(self.row, rows), np.searchsorted(self.row, rows, side="right")
        number = np.repeat(np.arange(len(rows)), after - first)
        within = np.arange(len(number)) - np.repeat(np.cumsum(after - first) - (after - first), after - first)
        return Rows(self.pieces[first[number] + within], number)


class RowIndex:
    """Hands out rows in order from `start`; `position` is where the next one starts.

    Raises UserError when the sequence length leaves no room for text, or pairs are asked of a single document.
    """

    def __init__(self, split: Split, sampling: Sampling, seed: int, sequence_length: int, start: DataPosition) -> None:
        if sequence_length < (shortest := sampling.shortest_row):
            raise UserError(f"sequence {sequence_length} is too short; it must be at least {shortest} tokens")
        if sampling.sentence_pairs == "nsp" and min(split.num_documents, split.num_on_disk) < 2:
            raise UserError(
                f"sentence_pairs nsp needs two documents, the {split.name} split has one; choose sop or none"
            )
        self._split, self._sampling, self._seed, self._sequence_length = split, sampling, seed, sequence_length
        self.position = start
        self._window = self._build(start)
        self._passed = 0  # rows of self._window
        self._to_next_window()

    def take(self, num_rows: int) -> Rows:
        """The next `num_rows` rows; runs over into the next window or epoch where this one ends."""
        parts, numbers, missing = [], [], num_rows
        while missing:
            number = min(missing, self._window.num_rows - self._passed)
            part = self._window.select(np.arange(self._passed, self._passed + number))
            parts.append(part.pieces)
            numbers.append(part.row + num_rows - missing)
            missing -= number
            self._pass(number)
        return Rows(Pieces.concatenate(parts), np.concatenate(numbers))

    def _pass(self, num_rows: int) -> None:
        self._passed += num_rows
        *before, last = self.position.taken or ((self._sequence_length, 0),)
        if last[0] != self._sequence_length:
            before, last = [*before, last], (self._sequence_length, 0)
        taken = (*before, (self._sequence_length, last[1] + num_rows))
        self.position = replace(self.position, taken=taken)
        self._to_next_window()

    def _to_next_window(self) -> None:
        while self._passed == self._window.num_rows:  # a window of documents without tokens has none
            epoch, stop = self.position.epoch, self._window_stop(self.position)
            if stop == self._split.num_documents:
                epoch, stop = epoch + 1, 0
            self.position = replace(self.position, epoch=epoch, document=stop, taken=())
            self._window, self._passed = self._build(self.position), 0

    def _window_stop(self, position: DataPosition) -> int:
        """The document after the window's last. The stage that opened the window decides it; later stages keep it."""
        opened_with = position.taken[0][0] if position.taken else self._sequence_length
        mean_tokens = max(1, self._split.num_tokens // self._split.num_documents)
        num_documents = min(max(1, _WINDOW_PIECES * opened_with // mean_tokens), _WINDOW_PIECES)
        return min(position.document + num_documents, self._split.num_documents)

    def _build(self, position: DataPosition) -> Rows:
        """The rows of a window that are left at `position`.

        If a stage with another sequence length took some, the text that it left unread is cut and packed again.
        """
        ranks = np.arange(position.document, self._window_stop(position))
        shard, start, length = self._split.locate(
            permuted(ranks, self._split.num_documents, self._seed, position.epoch)
        )
        cut_to = 0
        unread = Stretches(ranks, shard, start, np.zeros(len(ranks), np.int64), length)
        for sequence_length, num_taken in (*position.taken, (self._sequence_length, 0)):
            if sequence_length != cut_to:
                rows, cut_to = self._rows(position.epoch, sequence_length, unread), sequence_length
            rows = rows.select(np.arange(num_taken, rows.num_rows))
            unread = rows.pieces.unread()
        return rows

    def _rows(self, epoch: int, sequence_length: int, stretches: Stretches) -> Rows:
        """Pieces put into rows, and the rows shuffled."""
        draw = self.position.draw
        pieces = cut(self._split, self._sampling, self._seed, epoch, sequence_length, stretches, draw)
        row = np.arange(len(pieces))
        if self._sampling.pack:
            row = pack(pieces.num_tokens + self._sampling.num_special, sequence_length)
        hashes = hash_of(self._seed, epoch, pieces.document, pieces.offset, _ROW_ORDER)
        row_hash = np.full(row.max(initial=-1) + 1, ~np.uint64(0))
        np.minimum.at(row_hash, row, hashes)
        new_number = np.empty(len(row_hash), np.int64)
        new_number[np.argsort(row_hash, kind="stable")] = np.arange(len(row_hash))
        order = np.lexsort((hashes, new_number[row]))
        return Rows(pieces[order], new_number[row][order])
