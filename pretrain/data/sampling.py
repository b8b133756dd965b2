"""Which tokens form a sequence: documents are cut into pieces, single or as sentence pairs.

A *piece* is the text between a [CLS] and its last [SEP]. It begins where the previous piece of its document ended.
Everything else about it is hashed from (seed, epoch, document, offset): its target length, where it is divided into two
sentences, whether the second one is real. So the pieces of any stretch of text can be computed without computing those
before it.
"""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pretrain.data.corpus import Split
from pretrain.data.hashing import below, hash_of, permuted
from pretrain.settings.values import Number, Section

_TARGET, _DIVISION, _COIN, _OTHER = range(1, 5)  # one stream of random numbers per decision


class Sampling(Section):
    """How text becomes rows."""

    sentence_pairs: Literal["none", "nsp", "sop"] = "none"
    """The second objective: `none`, next-sentence prediction (`nsp`, BERT) or sentence order (`sop`, ALBERT). Use
    `none` unless you reproduce a paper that has one."""
    short_probability: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Fraction of the sequences that are cut to a random shorter length. BERT uses 0.1; 0 wastes no tokens."""
    pack: bool = False
    """Put several sequences in one row instead of padding it; they do not see each other. Use it if many documents are
    shorter than a row."""

    @property
    def num_special(self) -> int:
        """Special tokens of a piece: [CLS] and [SEP], and a second [SEP] after a second sentence."""
        return 2 if self.sentence_pairs == "none" else 3

    @property
    def shortest_row(self) -> int:
        """Tokens that a row needs at least, for as much text as there are special tokens."""
        return 2 * self.num_special


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


def cut(split: Split, sampling: Sampling, seed: int, epoch: int, sequence_length: int, stretches: Stretches) -> Pieces:
    """All stretches cut into pieces that fit the sequence length, in the order of the stretches.

    Works in waves: the first piece of every stretch, then every second one, ... each wave vectorised.
    """
    waves, owners = [Pieces(*[np.zeros(0, np.int64)] * len(fields(Pieces)))], [np.zeros(0, np.int64)]
    owner = np.flatnonzero(stretches.offset < stretches.end)
    while len(owner):
        pieces = _next_pieces(split, sampling, seed, epoch, sequence_length, stretches[owner])
        waves.append(pieces)
        owners.append(owner)
        stretches.offset[owner] += pieces.num_own
        owner = owner[stretches.offset[owner] < stretches.end[owner]]
    return Pieces.concatenate(waves)[np.argsort(np.concatenate(owners), kind="stable")]


def _next_pieces(
    split: Split, sampling: Sampling, seed: int, epoch: int, sequence_length: int, left: Stretches
) -> Pieces:
    """The first piece of each stretch."""
    room = sequence_length - sampling.num_special
    target = np.full(len(left), room)
    if sampling.short_probability:
        hashes = hash_of(seed, epoch, _TARGET, left.document, left.offset)
        is_short = (hashes & np.uint64(0xFFFFFFFF)) < np.uint64(sampling.short_probability * 2**32)
        target = np.where(is_short, 2 + below(hashes, room - 1), room)
    length = np.minimum(target, left.end - left.offset)
    nothing = np.zeros(len(left), np.int64)
    pieces = Pieces(
        epoch=np.full(len(left), epoch),
        document=left.document,
        shard=left.shard,
        document_start=left.document_start,
        offset=left.offset,
        num_own=length,
        first_start=left.document_start + left.offset,
        first_tokens=length,
        second_shard=left.shard,
        second_start=nothing,
        second_tokens=nothing,
        label=nothing,
    )
    if sampling.sentence_pairs == "none":
        return pieces
    divided = _divide(split, pieces, seed)
    return _swap(divided, seed) if sampling.sentence_pairs == "sop" else _replace(split, divided, target, seed)


def _divide(split: Split, pieces: Pieces, seed: int) -> Pieces:
    """Each piece divided in two at a random one of its inner sentence ends; at a random token where it has none."""
    hashes = _hashes(pieces, seed, _DIVISION)
    end = pieces.first_start + pieces.num_own
    number, num_ends = split.sentences_between(pieces.shard, pieces.first_start + 1, end)
    at_sentence = split.sentence_starts(pieces.shard, number + below(hashes, num_ends)) - pieces.first_start
    anywhere = np.minimum(1 + below(hashes, pieces.num_own - 1), pieces.num_own)
    first_tokens = np.where(num_ends > 0, at_sentence, anywhere)
    return replace(
        pieces,
        first_tokens=first_tokens,
        second_start=pieces.first_start + first_tokens,
        second_tokens=pieces.num_own - first_tokens,
    )


def _swap(pieces: Pieces, seed: int) -> Pieces:
    """Sentence order prediction (Lan et al. 2019): in half of the pieces the two sentences change places."""
    swapped = _coin(pieces, seed) & (pieces.second_tokens > 0)
    return replace(
        pieces,
        first_start=np.where(swapped, pieces.second_start, pieces.first_start),
        first_tokens=np.where(swapped, pieces.second_tokens, pieces.first_tokens),
        second_start=np.where(swapped, pieces.first_start, pieces.second_start),
        second_tokens=np.where(swapped, pieces.first_tokens, pieces.second_tokens),
        label=swapped.astype(np.int64),
    )


def _replace(split: Split, pieces: Pieces, target: np.ndarray, seed: int) -> Pieces:
    """Next sentence prediction (Devlin et al. 2018): in half of the pieces the second is from another document.

    The text it replaces is not lost: it begins the document's next piece, as in BERT.
    """
    replaced = _coin(pieces, seed) | (pieces.second_tokens == 0)  # a piece of one token has no second sentence
    hashes = _hashes(pieces, seed, _OTHER)
    other = (pieces.document + 1 + below(hashes, split.num_documents - 1)) % split.num_documents
    documents = permuted(other, split.num_documents, seed, int(pieces.epoch[0]))
    shard, start, end = split.random_sentence(documents, int(pieces.epoch[0]), hash_of(hashes))
    return replace(
        pieces,
        num_own=np.where(replaced, pieces.first_tokens, pieces.num_own),
        second_shard=np.where(replaced, shard, pieces.shard),
        second_start=np.where(replaced, start, pieces.second_start),
        second_tokens=np.where(replaced, np.minimum(end - start, target - pieces.first_tokens), pieces.second_tokens),
        label=replaced.astype(np.int64),
    )


def _coin(pieces: Pieces, seed: int) -> np.ndarray:
    return _hashes(pieces, seed, _COIN) >> np.uint64(63) == 1


def _hashes(pieces: Pieces, seed: int, stream: int) -> np.ndarray:
    """A random number for each piece, all of one epoch."""
    return hash_of(seed, int(pieces.epoch[0]), stream, pieces.document, pieces.offset)
