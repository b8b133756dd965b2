"""Which tokens every row holds: a pure function of (seed, epoch, sequence length, start), built a window at a time.

An epoch is a permutation of documents. Nothing is drawn or stored: the permutation is computed where it is read
(hashing.permuted), so starting in the middle of an epoch, or in the tenth one, costs what starting at 0 does.
"""

from dataclasses import dataclass, fields

import numpy as np

from pretrain.data.corpus import Split
from pretrain.data.hashing import permuted

NUM_SPECIAL = 2  # [CLS] and [SEP] around each piece
_WINDOW_DOCUMENTS = 1024


@dataclass(frozen=True)
class DataPosition:
    """Where the next row starts."""

    epoch: int = 0
    document: int = 0
    """Documents passed, along this epoch's permutation."""
    offset: int = 0
    """Tokens passed within that document."""


@dataclass(frozen=True)
class Pieces:
    """Stretches of documents, one of which fills a row. Columns of equal length, int64."""

    epoch: np.ndarray
    document: np.ndarray  # rank along the epoch's permutation
    offset: np.ndarray  # of the first token within the document
    num_tokens: np.ndarray  # without special tokens
    shard: np.ndarray
    start: np.ndarray  # of the first token within the shard

    def __len__(self) -> int:
        return len(self.document)

    def __getitem__(self, chosen: slice | np.ndarray) -> "Pieces":
        return Pieces(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @staticmethod
    def concatenate(parts: list["Pieces"]) -> "Pieces":
        return Pieces(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Pieces)))


class RowIndex:
    """Hands out rows in order from `start`; `position` is where the next one starts."""

    def __init__(self, split: Split, seed: int, sequence_length: int, start: DataPosition) -> None:
        self.position = start
        self._split, self._seed = split, seed
        self._piece_tokens = sequence_length - NUM_SPECIAL
        self._window = self._build(start)

    def take(self, num_rows: int) -> Pieces:
        """The next `num_rows` rows; runs over into the next epoch where this one ends."""
        parts, missing = [], num_rows
        while missing:
            parts.append(self._window[:missing])
            missing -= len(parts[-1])
            self._advance(len(parts[-1]))
        return Pieces.concatenate(parts)

    def _advance(self, num_rows: int) -> None:
        rest = self._window[num_rows:]
        start = self._window_end
        while len(rest) == 0:  # documents without tokens make no rows
            rest = self._build(start)
            start = self._window_end
        self._window = rest
        self.position = DataPosition(int(rest.epoch[0]), int(rest.document[0]), int(rest.offset[0]))

    def _build(self, start: DataPosition) -> Pieces:
        """The rows of the documents from `start` to the end of the window or of the epoch."""
        stop = min(start.document + _WINDOW_DOCUMENTS, self._split.num_documents)
        at_end = stop == self._split.num_documents
        self._window_end = DataPosition(start.epoch + 1) if at_end else DataPosition(start.epoch, stop)

        ranks = np.arange(start.document, stop)
        documents = permuted(ranks, self._split.num_documents, self._seed, start.epoch)
        shard, token_start, length = self._split.locate(documents)
        skipped = np.where(ranks == start.document, start.offset, 0)
        num_pieces = -((skipped - length) // self._piece_tokens)

        of = np.repeat(np.arange(len(ranks)), num_pieces)  # the document each piece is cut from
        number = np.arange(len(of)) - (np.cumsum(num_pieces) - num_pieces)[of]
        offset = skipped[of] + number * self._piece_tokens
        num_tokens = np.minimum(length[of] - offset, self._piece_tokens)
        return Pieces(np.full(len(of), start.epoch), ranks[of], offset, num_tokens, shard[of], token_start[of] + offset)
