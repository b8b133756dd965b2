"""Tables of stretches of text and of the pieces that they are cut into: `sampling.py` says what a piece is."""

from dataclasses import dataclass, fields

import numpy as np

from pretrain.data.hashing import hash_of


@dataclass(frozen=True)
class Columns:
    """A table: numpy columns of equal length."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, chosen):
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def concatenate(cls, tables: list):
        return cls(*(np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(cls)))


@dataclass(frozen=True)
class Stretches(Columns):
    """Text still to be read: tokens `offset` to `end` of documents."""

    document: np.ndarray  # rank along the epoch's permutation
    shard: np.ndarray
    document_start: np.ndarray  # the document's first token within the shard
    offset: np.ndarray
    end: np.ndarray


@dataclass(frozen=True)
class Pieces(Columns):
    """Sequences of one sentence, or of two where pairs are asked for; a sentence here is any run of text."""

    epoch: np.ndarray
    document: np.ndarray  # rank along the epoch's permutation
    shard: np.ndarray
    document_start: np.ndarray  # the document's first token within the shard
    offset: np.ndarray  # of this piece within the document
    num_own: np.ndarray  # tokens of the document that this piece uses up
    first_start: np.ndarray  # of the first sentence within the shard
    first_tokens: np.ndarray
    second_shard: np.ndarray
    second_start: np.ndarray
    second_tokens: np.ndarray  # 0: there is none
    label: np.ndarray  # 0: the second sentence follows the first

    @property
    def num_tokens(self) -> np.ndarray:
        """[P] without special tokens."""
        return self.first_tokens + self.second_tokens

    def unread(self) -> Stretches:
        """The text that these pieces would have used up, neighbours joined."""
        own = self[np.lexsort((self.offset, self.document))]
        end = own.offset + own.num_own
        opens = np.ones(len(own), bool)
        opens[1:] = (own.document[1:] != own.document[:-1]) | (own.offset[1:] != end[:-1])
        first, last = np.flatnonzero(opens), np.flatnonzero(np.append(opens[1:], True))
        return Stretches(own.document[first], own.shard[first], own.document_start[first], own.offset[first], end[last])

    def hashes(self, seed: int, stream: int) -> np.ndarray:
        """A random number for each piece, all of one epoch."""
        return hash_of(seed, int(self.epoch[0]), stream, self.document, self.offset)
