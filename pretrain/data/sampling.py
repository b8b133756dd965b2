"""Which tokens form a sequence: documents are cut into pieces, single or as sentence pairs.

A *piece* is the text between a [CLS] and its last [SEP]. It begins where the previous piece of its document ended.
Everything else about it is hashed from (seed, epoch, document, offset): its target length, where it is divided into two
sentences, whether the second one is real. So the pieces of any stretch of text can be computed without computing those
before it; only a wrong second sentence is that of another piece of the same stretches.
"""

from dataclasses import fields, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pretrain.data import negatives
from pretrain.data.corpus import Split
from pretrain.data.hashing import below, hash_of
from pretrain.data.pieces import Pieces, Stretches
from pretrain.settings.values import Number, Section

_TARGET, _DIVISION, _COIN = range(1, 4)  # one stream of random numbers per decision; negatives.py has more


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


def cut(
    split: Split,
    sampling: Sampling,
    seed: int,
    epoch: int,
    sequence_length: int,
    stretches: Stretches,
    draw: int = negatives.EXCHANGED,
) -> Pieces:
    """All stretches cut into pieces that fit the sequence length, in the order of the stretches.

    Works in waves: the first piece of every stretch, then every second one, ... each wave vectorised. `draw`: how wrong
    second sentences are found.
    """
    waves, owners = [Pieces(*[np.zeros(0, np.int64)] * len(fields(Pieces)))], [np.zeros(0, np.int64)]
    ends = [np.zeros(0, bool)]
    owner = np.flatnonzero(stretches.offset < stretches.end)
    while len(owner):
        pieces, target = _next_pieces(split, sampling, seed, epoch, sequence_length, stretches[owner])
        ends.append(pieces.offset + pieces.num_tokens == stretches.end[owner])
        if sampling.sentence_pairs == "nsp" and draw == negatives.ANYWHERE:
            pieces = negatives.from_anywhere(split, pieces, target, seed)
        waves.append(pieces)
        owners.append(owner)
        stretches.offset[owner] += pieces.num_own
        owner = owner[stretches.offset[owner] < stretches.end[owner]]
    order = np.argsort(np.concatenate(owners), kind="stable")
    pieces = Pieces.concatenate(waves)[order]
    if sampling.sentence_pairs == "nsp" and draw == negatives.EXCHANGED:
        room = sequence_length - sampling.num_special
        return negatives.exchanged(split, pieces, np.concatenate(ends)[order], room, seed)
    return pieces


def _next_pieces(
    split: Split, sampling: Sampling, seed: int, epoch: int, sequence_length: int, left: Stretches
) -> tuple[Pieces, np.ndarray]:
    """The first piece of each stretch, and how many tokens it may have. A wrong second sentence is only announced."""
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
        return pieces, target
    divided = _divide(split, pieces, seed)
    return (_swap if sampling.sentence_pairs == "sop" else _announce)(divided, seed), target


def _divide(split: Split, pieces: Pieces, seed: int) -> Pieces:
    """Each piece divided in two at a random one of its inner sentence ends; at a random token where it has none."""
    hashes = pieces.hashes(seed, _DIVISION)
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


def _announce(pieces: Pieces, seed: int) -> Pieces:
    """Next sentence prediction (Devlin et al. 2018): in half of the pieces the second is from another document.

    The text it replaces is not lost: it begins the document's next piece, as in BERT.
    """
    wrong = _coin(pieces, seed) | (pieces.second_tokens == 0)  # a piece of one token has no second sentence
    return replace(pieces, num_own=np.where(wrong, pieces.first_tokens, pieces.num_own), label=wrong.astype(np.int64))


def _coin(pieces: Pieces, seed: int) -> np.ndarray:
    return pieces.hashes(seed, _COIN) >> np.uint64(63) == 1
