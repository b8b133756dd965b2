"""Dynamic masking: which tokens are hidden and by what, hashed from the piece's key and the position in it.

The scheme is BERT's (Devlin et al. 2018, section 3.1 and its code): a fixed share of each sequence is chosen. Of the
chosen tokens, 80% become [MASK], 10% a random token, and 10% are unchanged.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pretrain.data.corpus import Corpus
from pretrain.data.hashing import GOLDEN, below, hash_of, mix
from pretrain.settings.values import Number, Positive, Section

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen tokens, the shares that become [MASK] and a random ordinary token. The rest stays as it is."""

_REPLACEMENT = np.uint64(1)  # tells the stream of replacements from the stream of choices


class Masking(Section):
    """What to mask."""

    mask_rate: Annotated[Number, Field(gt=0, lt=1)] = 0.15
    """Fraction of a sequence's tokens that the model must predict (special tokens count). BERT uses 0.15."""
    whole_word: bool = False
    """Mask all pieces of a word together, which makes the task harder and usually helps fine-tuning."""
    max_span: Positive = 1
    """Mask spans of up to this many neighbouring words (or tokens, without `whole_word`). 1 masks single ones; ALBERT
    uses 3, SpanBERT 10."""
    span_lengths: Literal["inverse", "geometric"] = "inverse"
    """Probability of a span of length n: proportional to 1/n (`inverse`, ALBERT) or to 0.8^n (`geometric`, SpanBERT).
    Matters only with `max_span` above 1."""

    def span_shares(self) -> np.ndarray:
        """[max_span] how probable each span length is."""
        lengths = np.arange(1, self.max_span + 1)
        weights = 1 / lengths if self.span_lengths == "inverse" else 0.8**lengths
        return weights / weights.sum()


def mask_tokens(
    tokens: np.ndarray,  # [T] all sentences of all pieces, one after the other, without special tokens around them
    sentence_lengths: np.ndarray,  # [P, sentences] tokens; their sum is T
    keys: np.ndarray,  # [P] uint64, what the randomness of each piece is hashed from
    num_special: int,  # special tokens around each piece: they count towards the rate
    masking: Masking,
    corpus: Corpus,
    opens_word: np.ndarray | None = None,  # [T] bool; None: as the tokens themselves tell
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens with masks applied [T], and the positions in T that were chosen, ascending."""
    piece, within = _numbered(sentence_lengths.sum(1))
    sentence, within_sentence = _numbered(sentence_lengths.ravel())
    counter = GOLDEN * (within + 1).astype(np.uint64)
    hashes = mix(keys[piece] + counter)

    maskable = ~corpus.is_special[tokens]
    if opens_word is None:
        opens_word = corpus.word_starts[tokens]
    opens_unit = (within_sentence == 0) | ~maskable | (opens_word if masking.whole_word else True)
    if masking.max_span > 1:
        opens_unit = _join_spans(opens_unit, sentence, hashes, masking.span_shares())
    budgets = np.maximum(1, np.rint(masking.mask_rate * (sentence_lengths.sum(1) + num_special)).astype(np.int64))
    chosen = np.flatnonzero(_choose(piece, hashes, opens_unit, maskable, budgets))

    hashes = mix(hash_of(keys, _REPLACEMENT)[piece[chosen]] + counter[chosen])
    share = (hashes & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
    random_ids = corpus.ordinary_ids[below(hashes, len(corpus.ordinary_ids))]
    is_random = share < MASK_SHARE + RANDOM_SHARE
    masked = tokens.copy()
    masked[chosen] = np.where(share < MASK_SHARE, corpus.special.mask, np.where(is_random, random_ids, tokens[chosen]))
    return masked, chosen


def _numbered(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For runs of these lengths, one after the other: the number of each element's run, and its place within it."""
    number = np.repeat(np.arange(len(lengths)), lengths)
    return number, np.arange(len(number)) - (np.cumsum(lengths) - lengths)[number]


def _join_spans(opens_word: np.ndarray, sentence: np.ndarray, hashes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[T] bool: where spans open, when every sentence is laid out in spans of random numbers of words.

    Span j of a sentence takes its length from the hash of the sentence's word j: any fixed assignment of fresh random
    numbers will do, and this one needs no loop.
    """
    first = np.flatnonzero(opens_word)
    sentence_of = sentence[first]
    opens_sentence = np.diff(sentence_of, prepend=-1) > 0
    run = np.cumsum(opens_sentence) - 1
    first_word = np.flatnonzero(opens_sentence)
    lengths = 1 + np.searchsorted(np.cumsum(shares)[:-1], (mix(hashes[first]) >> np.uint64(11)) / 2**53, side="right")
    total = np.cumsum(lengths)
    next_span = first_word[run] + total - (total - lengths)[first_word][run]  # the word after span j
    inside = next_span < np.append(first_word[1:], len(first))[run]
    opens_span = np.zeros(len(opens_word), bool)
    opens_span[first[first_word]] = True
    opens_span[first[next_span[inside]]] = True
    return opens_span


def _choose(
    piece: np.ndarray, hashes: np.ndarray, opens_unit: np.ndarray, maskable: np.ndarray, budgets: np.ndarray
) -> np.ndarray:
    """[T] bool: units (tokens or words) in random order, each taken if it still fits its piece's budget of tokens."""
    first = np.flatnonzero(opens_unit)
    unit = np.cumsum(opens_unit) - 1
    size = np.diff(first, append=len(piece))
    piece_of = piece[first]
    eligible = np.bincount(unit, ~maskable, len(first)) == 0
    # One sort for all pieces: the piece in the upper bits, the unit's random number below.
    order = np.argsort((piece_of.astype(np.uint64) << np.uint64(40)) | (hashes[first] >> np.uint64(24)))
    waiting = order[eligible[order]]
    left = budgets.copy()
    taken = np.zeros(len(first), bool)
    while len(waiting := waiting[size[waiting] <= left[piece_of[waiting]]]):
        # Within a piece the units that fit one after the other are a prefix; after it, only smaller ones may still fit.
        total = np.cumsum(size[waiting])
        before_piece = (total - size[waiting])[np.searchsorted(piece_of[waiting], piece_of[waiting])]
        fits = total - before_piece <= left[piece_of[waiting]]
        taken[waiting[fits]] = True
        left -= np.bincount(piece_of[waiting[fits]], size[waiting[fits]], len(left)).astype(np.int64)
        waiting = waiting[~fits]
    return taken[unit]
