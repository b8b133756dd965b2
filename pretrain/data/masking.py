"""Dynamic masking: which tokens are hidden and by what, hashed from the piece's key and the place in it.

The scheme is BERT's (Devlin et al. 2018, section 3.1 and its code): a fixed share of each sequence is chosen; of the
chosen tokens 80% become [MASK], 10% a random token, 10% stay.
"""

from dataclasses import dataclass

import numpy as np

from model.errors import UserError
from pretrain.data.corpus import Corpus
from pretrain.data.hashing import GOLDEN, below, hash_of, mix

_REPLACEMENT = np.uint64(1)  # tells the stream of replacements from the stream of choices


@dataclass(frozen=True)
class Masking:
    """What to mask. Raises UserError when a share is out of range."""

    rate: float = 0.15
    """Share of each sequence's tokens, its special tokens counted, that the model must predict."""
    whole_word: bool = False
    """Choose all tokens of a word together."""
    mask_share: float = 0.8
    """Of the chosen tokens, the share replaced by [MASK]."""
    random_share: float = 0.1
    """Of the chosen tokens, the share replaced by a random ordinary token; the rest stays as it is."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise UserError(f"mask_rate {self.rate} must lie between 0 and 1")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise UserError(
                f"mask_share {self.mask_share} and random_share {self.random_share} must be shares of one whole"
            )


def mask_tokens(
    tokens: np.ndarray,  # [T] the tokens of all pieces, one piece after the other, without special tokens around them
    lengths: np.ndarray,  # [P] tokens per piece, summing to T
    keys: np.ndarray,  # [P] uint64, what the randomness of each piece is hashed from
    num_special: int | np.ndarray,  # special tokens around each piece: they count towards the rate
    masking: Masking,
    corpus: Corpus,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens with masks applied [T], and the positions in T that were chosen, ascending."""
    piece = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(tokens)) - (np.cumsum(lengths) - lengths)[piece]
    counter = GOLDEN * (within + 1).astype(np.uint64)

    maskable = ~corpus.is_special[tokens]
    opens_unit = (within == 0) | ~maskable | (corpus.word_starts[tokens] if masking.whole_word else True)
    budgets = np.maximum(1, np.rint(masking.rate * (lengths + num_special)).astype(np.int64))
    chosen = np.flatnonzero(_choose(piece, mix(keys[piece] + counter), opens_unit, maskable, budgets))

    hashes = mix(hash_of(keys, _REPLACEMENT)[piece[chosen]] + counter[chosen])
    share = (hashes & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
    random_ids = corpus.ordinary_ids[below(hashes, len(corpus.ordinary_ids))]
    masked = tokens.copy()
    masked[chosen] = np.select(
        [share < masking.mask_share, share < masking.mask_share + masking.random_share],
        [np.full(len(chosen), corpus.special.mask), random_ids],
        tokens[chosen],
    )
    return masked, chosen


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
