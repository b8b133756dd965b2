"""Fill-mask: what a trained model predicts for [MASK].

A [MASK] is a word: one of those that the vocabulary holds whole. Where tokens are characters it is spelled: every
length is tried, and the guess whose letters are the likeliest on average wins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from model.batch import Batch
from model.bert import BertForPreTraining
from model.errors import UserError
from pretrain.data import Vocabulary
from pretrain.data.text.tokenizer import BLANK, TextTokenizer

MASK = "[MASK]"
BYTE_BLANK = "Ġ"
"""The blank before a word, as byte-level BPE writes it."""
WORD_LENGTHS = range(2, 13)


@dataclass(frozen=True)
class Guess:
    ids: tuple[int, ...]
    """The whole row, filled, between [CLS] and [SEP]."""
    log_probability: float
    """Of all filled tokens, each given those filled before it."""


class Filler:
    """Fills masked tokens one after the other, the surest first, each in the light of those filled before."""

    def __init__(self, model: BertForPreTraining, vocabulary: Vocabulary):
        self.model, self.vocabulary = model, vocabulary

    def fill(self, rows: Sequence[Sequence[int]], num_guesses: int = 1) -> list[list[Guess]]:
        """For every row of token ids (no [CLS], [SEP]) its best fillings, best first: a beam search of that width."""
        mask = self.vocabulary.special.mask
        beams = [[Guess(tuple(row), 0.0)] for row in rows]
        while unfinished := [beam for beam in beams if mask in beam[0].ids]:
            guesses = [guess for beam in unfinished for guess in beam]
            continued = iter(self._continue(guesses, num_guesses))
            for beam in unfinished:
                # Two orders of filling may meet in the same row: it counts once.
                found = {guess.ids: guess for _ in list(beam) for guess in next(continued)}
                beam[:] = sorted(found.values(), key=lambda guess: -guess.log_probability)[:num_guesses]
        return beams

    @torch.no_grad()
    def _continue(self, guesses: list[Guess], num_choices: int) -> list[list[Guess]]:
        """Each guess with its surest masked position filled, in the most likely ways."""
        batch = self._batch(guesses)
        layer = self.model.config.words_from
        hidden = self.model.states(batch, {layer})[layer].flatten(0, 1)
        logits = self.model.mlm(hidden[batch.masked_positions], self.model.embeddings.word.weight)  # [M, V]
        log_probabilities = (logits.float() + self._forbidden).log_softmax(-1)
        sureness = log_probabilities.amax(-1)
        length = batch.ids.shape[1]
        row_of_mask = batch.masked_positions // length
        continued = []
        for row, guess in enumerate(guesses):
            here = (row_of_mask == row).nonzero().flatten()
            best = int(here[sureness[here].argmax()])
            place = int(batch.masked_positions[best]) % length - 1  # [CLS] stands before
            choices = log_probabilities[best].topk(min(num_choices, int((self._forbidden == 0).sum())))
            continued.append(
                [
                    Guess((*guess.ids[:place], id, *guess.ids[place + 1 :]), guess.log_probability + value)
                    for value, id in zip(choices.values.tolist(), choices.indices.tolist(), strict=True)
                ]
            )
        return continued

    def _batch(self, guesses: list[Guess]) -> Batch:
        special = self.vocabulary.special
        length = max(len(guess.ids) for guess in guesses) + 2
        longest = self.model.config.max_positions
        if length > longest:
            raise UserError(f"the text has {length - 2} tokens; this model reads {longest - 2} at most, shorten it")
        rows = [[special.cls, *guess.ids, special.sep] for guess in guesses]
        ids = torch.tensor([row + [special.pad] * (length - len(row)) for row in rows])
        masked = (ids == special.mask).flatten().nonzero().flatten()
        return Batch(ids, masked, ids.flatten()[masked], segments=(ids != special.pad).long())

    @cached_property
    def _forbidden(self) -> Tensor:
        """[V] 0 for whole words (in a vocabulary of characters: letters and digits), minus infinity for the rest."""
        fits = ~self.vocabulary.is_special & whole_words(self.vocabulary.tokenizer)
        forbidden = torch.full((self.model.config.padded_vocab_size,), -torch.inf)
        forbidden[torch.from_numpy(np.flatnonzero(fits))] = 0.0
        return forbidden


def fill_text(filler: Filler, text: str, num_guesses: int) -> list[tuple[float, str]]:
    """The most likely completions of a text with [MASK]: (probability, text). For characters, per letter.

    Raises UserError when there is no [MASK], or several with a character vocabulary, or the text is too long or
    no UTF-8.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # bytes of the command line that Python could not read
        raise UserError(f"the text {text!r} is not UTF-8; write it in this encoding")
    if MASK not in text:
        raise UserError(f"the text {text!r} has no {MASK}; write one where a word is to be guessed")
    spells = blank_id(filler.vocabulary) is not None
    if spells and text.count(MASK) > 1:
        raise UserError(
            f"this model spells words letter by letter and fills one {MASK} at a time; leave one in the text"
        )
    rows = [encode(filler.vocabulary, text, length) for length in (WORD_LENGTHS if spells else [1])]
    scored = [
        (math.exp(guess.log_probability / (row.count(filler.vocabulary.special.mask) if spells else 1)), guess)
        for row, guesses in zip(rows, filler.fill(rows, num_guesses), strict=True)
        for guess in guesses
    ]
    scored.sort(key=lambda pair: -pair[0])
    decode = filler.vocabulary.tokenizer.decode
    return [(probability, decode(list(guess.ids))) for probability, guess in scored[:num_guesses]]


def whole_words(tokenizer: TextTokenizer) -> np.ndarray:
    """[vocab] bool: tokens that are words, without the ## of WordPiece's continuations; with a blank before them, where
    the tokens of a vocabulary have one (SentencePiece, byte-level BPE)."""
    tokens = [token or "" for token in tokenizer.tokens]
    if not tokenizer.spells and (blank := next((mark for mark in (BLANK, BYTE_BLANK) if has_words(tokens, mark)), "")):
        return np.array(
            [token.startswith(blank) and tokenizer.decode([id]).strip().isalnum() for id, token in enumerate(tokens)]
        )
    return np.array([token.isalnum() for token in tokens])


def has_words(tokens: Sequence[str], mark: str) -> bool:
    return any(token.startswith(mark) and len(token) > 1 for token in tokens)


def encode(vocabulary: Vocabulary, text: str, masks_per_word: int) -> list[int]:
    """Token ids of a text in which every [MASK] becomes that many masked tokens: one, unless tokens are characters."""
    if not vocabulary.tokenizer.spells:
        return vocabulary.tokenizer.encode_masked(text)
    blank, mask = blank_id(vocabulary), vocabulary.special.mask
    first, *others = text.split(MASK)
    ids = _encode_part(vocabulary, first)
    before = first
    for part in others:
        opens_word = not before or before[-1].isspace()
        ids += ([blank] if blank is not None and opens_word else []) + [mask] * masks_per_word
        encoded = _encode_part(vocabulary, part)
        # The characters tokenizer takes every text to begin with a word; "." in "[MASK]." does not.
        ids += encoded[1:] if encoded[:1] == [blank] and not part[0].isspace() else encoded
        before = part
    return ids


def _encode_part(vocabulary: Vocabulary, part: str) -> list[int]:
    return vocabulary.tokenizer.encode(part) if part.strip() else []


def blank_id(vocabulary: Vocabulary) -> int | None:
    """The token of the blank before a word where tokens are characters, else None."""
    return vocabulary.tokenizer.token_to_id(BLANK) if vocabulary.tokenizer.spells else None
