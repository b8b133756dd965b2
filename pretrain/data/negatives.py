"""Wrong second sentences for next sentence prediction (Devlin et al. 2018): which text, so that only the text tells.

A wrong second sentence is the right one of another piece, of another document and of equal length. So wrong ones begin
and end where right ones do: neither their place in a document nor their length tells them apart.
"""

from dataclasses import replace

import numpy as np

from pretrain.data.corpus import Split
from pretrain.data.hashing import below, hash_of, permuted
from pretrain.data.pieces import Pieces

ANYWHERE, EXCHANGED = 1, 2
"""The ways to find them: of runs that earlier versions began, and of all others (`DataPosition.draw`)."""
_OTHER, _TIES = 4, 5  # streams of random numbers, beside those of sampling.py
_REACH = 64
"""How far, in the order of lengths, another document's piece is looked for."""


def exchanged(split: Split, pieces: Pieces, ends: np.ndarray, room: int, seed: int) -> Pieces:
    """`pieces`, which still have their own second sentences, with those of others where their label is 1.

    `ends` [P]: which pieces reach the end of their text. They get a second sentence that does so too, of the nearest
    length. Pieces that are cut off because a row holds `room` tokens get one that is cut off, at exactly their length.
    And those that could not be divided at a sentence end get one that begins anywhere. Where no other document has a
    fitting one, it is taken from inside any document.
    """
    own = pieces.second_tokens
    _, begins = split.sentences_between(pieces.second_shard, pieces.second_start, pieces.second_start + 1)
    kind = 2 * ends + begins
    givers = np.flatnonzero(own > 0)
    order = givers[np.lexsort((_ties(pieces, seed)[givers], own[givers], kind[givers]))]
    place = np.full(len(pieces), -1)
    place[order] = np.arange(len(order))
    shorter, longer = _nearest_of_others(_documents(pieces)[order], kind[order])

    wanted = np.flatnonzero((pieces.label == 1) & (own > 0))
    here = place[wanted]
    first_choice = np.where(ends[wanted], shorter[here], longer[here])
    second_choice = np.where(ends[wanted], longer[here], shorter[here])
    found = np.where(np.abs(first_choice - here) <= _REACH, first_choice, second_choice)
    near = np.abs(found - here) <= _REACH
    taker, giver = wanted[near], order[found[near]]

    shard, start, tokens = pieces.second_shard.copy(), pieces.second_start.copy(), own.copy()
    shard[taker], start[taker] = pieces.second_shard[giver], pieces.second_start[giver]
    most = np.where(ends[taker], room - pieces.first_tokens[taker], own[taker])
    tokens[taker] = np.minimum(own[giver], most)

    left = np.setdiff1d(np.flatnonzero(pieces.label == 1), taker)
    if len(left):
        shard[left], start[left], end = _inside_another(split, pieces[left], seed)
        most = np.where(own[left] > 0, own[left], room - pieces.first_tokens[left])
        tokens[left] = np.minimum(end - start[left], most)
    return replace(pieces, second_shard=shard, second_start=start, second_tokens=tokens)


def _ties(pieces: Pieces, seed: int) -> np.ndarray:
    return pieces.hashes(seed, _TIES) if len(pieces) else np.zeros(0, np.uint64)


def _documents(pieces: Pieces) -> np.ndarray:
    """[P] equal for pieces of one document: a mixture may read it several times in an epoch."""
    return pieces.shard << 40 | pieces.document_start


def _nearest_of_others(document: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each place in an order: the nearest before it and after it of another document and the same kind.

    Far outside the order where there is none.
    """
    size = len(document)
    nowhere = 2 * size + _REACH
    opens = np.ones(size, bool)
    opens[1:] = (document[1:] != document[:-1]) | (kind[1:] != kind[:-1])
    run = np.cumsum(opens) - 1
    first = np.flatnonzero(opens)
    before, after = first - 1, np.append(first, size)[1:]
    same_before = (before >= 0) & (kind[before] == kind[first])
    same_after = (after < size) & (kind[np.minimum(after, size - 1)] == kind[first])
    return np.where(same_before, before, -nowhere)[run], np.where(same_after, after, nowhere)[run]


def _inside_another(split: Split, pieces: Pieces, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shard, a place in it and the end of the document there, for each piece; never a document's beginning."""
    epoch = int(pieces.epoch[0])
    documents = permuted(pieces.document, split.num_documents, seed, epoch)
    return split.inside_another(documents, epoch, pieces.hashes(seed, _OTHER))


def from_anywhere(split: Split, pieces: Pieces, target: np.ndarray, seed: int) -> Pieces:
    """As versions before drew them: a random sentence of a random document of the epoch, and what follows it.

    It may open its document, which right ones never do, and a mixture may draw the very same document.
    """
    wrong = pieces.label == 1
    epoch = int(pieces.epoch[0])
    hashes = pieces.hashes(seed, _OTHER)
    other = (pieces.document + 1 + below(hashes, split.num_documents - 1)) % split.num_documents
    documents = permuted(other, split.num_documents, seed, epoch)
    shard, start, end = split.random_sentence(documents, epoch, hash_of(hashes))
    return replace(
        pieces,
        second_shard=np.where(wrong, shard, pieces.shard),
        second_start=np.where(wrong, start, pieces.second_start),
        second_tokens=np.where(wrong, np.minimum(end - start, target - pieces.first_tokens), pieces.second_tokens),
    )
