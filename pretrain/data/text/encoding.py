"""Documents to token ids: what the library that owns the tokenizer gives on each whole document.

BERT's own pipeline is several times faster here, with the same ids. Text repeats itself: what stands between two blanks
is tokenized without regard to what is beyond them, so its ids are looked up, and only what is new reaches the library.
"""

import re
import unicodedata
from collections.abc import Callable
from itertools import chain, pairwise
from typing import TypeGuard

import numpy as np
from tokenizers import models, normalizers, pre_tokenizers

from model.errors import UserError
from pretrain.data.text.indexed import token_dtype
from pretrain.data.text.json_tokenizer import Encoded, JsonTokenizer
from pretrain.data.text.shards import Documents
from pretrain.data.text.tokenizer import TextTokenizer

ENCODED = "documents"
"""What a manifest says of ids made here. Those of earlier versions say nothing: they were made sentence by sentence."""
_MAX_CACHED = 400_000
_MAX_CACHED_LENGTH = 40  # characters; longer ones hardly come again


class Encoder:
    """Encodes documents without special tokens; text that looks like one ("[MASK]") stays text."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.dtype = token_dtype(len(tokenizer.tokens))
        self._tokenizer = tokenizer
        self._words = _BertWords(tokenizer, self.dtype) if is_bert_pipeline(tokenizer) else None

    def encode(self, texts: list[str], sentences: list[list[str]]) -> Documents:
        """Of texts, and the sentences of each: parts of it in their order, with nothing but blanks between them.

        A document without a token keeps its place, with no sentence.
        """
        if self._words is None:
            return self._by_library(texts, sentences)
        hang_together = [self._words.hang_together(*each) for each in zip(texts, sentences, strict=True)]
        if any(hang_together):
            each = [
                (self._by_library if hangs else self._by_words)([text], [parts])
                for text, parts, hangs in zip(texts, sentences, hang_together, strict=True)
            ]
            return Documents.concatenate(each)
        return self._by_words(texts, sentences)

    def check(self, text: str, sentences: list[str]) -> None:
        """Raises UserError unless the ids are the library's."""
        ours, theirs = (encode([text], [sentences]) for encode in (self.encode, self._by_library))
        if not np.array_equal(ours.tokens, theirs.tokens):
            place = int(np.argmin([*(ours.tokens[: len(theirs.tokens)] == theirs.tokens[: len(ours.tokens)]), False]))
            raise UserError(
                f"token {place} of the document {text[:60]!r} is not what the tokenizers library gives; this is a "
                "fault of Espalier's: please report it with the vocabulary and the text"
            )

    def _by_library(self, texts: list[str], sentences: list[list[str]]) -> Documents:
        encoded = self._tokenizer.encode_documents(texts)
        lengths = [_lengths(*each) for each in zip(texts, sentences, encoded, strict=True)]
        opens = [each.opens_word for each in encoded if each.opens_word is not None]
        return Documents(
            np.concatenate([np.zeros(0, self.dtype), *(np.asarray(each.ids).astype(self.dtype) for each in encoded)]),
            np.concatenate([np.zeros(0, np.int32), *lengths]).astype(np.int32),
            np.array([len(each) for each in lengths], np.int64),
            np.concatenate([np.zeros(0, bool), *opens]) if self._tokenizer.stores_words else None,
        )

    def _by_words(self, texts: list[str], sentences: list[list[str]]) -> Documents:
        assert self._words is not None
        encoded = [self._words.encode(sentence) for sentence in chain.from_iterable(sentences)]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded)) // self.dtype.itemsize
        document = np.repeat(np.arange(len(texts)), [len(of_document) for of_document in sentences])[lengths > 0]
        return Documents(
            np.frombuffer(b"".join(encoded), self.dtype),
            lengths[lengths > 0].astype(np.int32),
            np.bincount(document, minlength=len(texts)),
        )


def _lengths(text: str, sentences: list[str], encoded: Encoded) -> np.ndarray:
    """How many tokens each sentence has, without those that have none. A token is of the sentence it ends in."""
    starts, place = [], 0
    for sentence in sentences:
        place = text.index(sentence, place)
        starts.append(place)
        place += len(sentence)
    if len(encoded.ids) == 0:
        return np.zeros(0, np.int64)
    sentence_of = np.searchsorted(starts[1:], np.asarray(encoded.ends), side="left")
    counts = np.bincount(np.maximum.accumulate(sentence_of))
    return counts[counts > 0]


def is_bert_pipeline(tokenizer: TextTokenizer) -> TypeGuard[JsonTokenizer]:
    """Whether words are found as BERT finds them, and each is split into WordPieces separately."""
    return (
        isinstance(tokenizer, JsonTokenizer)
        and isinstance(tokenizer.library.model, models.WordPiece)
        and isinstance(tokenizer.library.normalizer, normalizers.BertNormalizer)
        and tokenizer.library.normalizer.clean_text
        and isinstance(tokenizer.library.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and not tokenizer.has_added_tokens
    )


class _Cache(dict):
    """text -> its token ids, as bytes. Filled as texts come up; emptied when full."""

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        self._encode = encode

    def __missing__(self, text: str) -> bytes:
        ids = self._encode(text)
        if len(text) <= _MAX_CACHED_LENGTH:
            if len(self) >= _MAX_CACHED:
                self.clear()
            self[text] = ids
        return ids


# Characters that Python counts as blank, or splits at, and the library removes.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]").search
_ASCII_WORDS = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9\s]").findall


class _BertWords:
    """Stretches of ASCII are taken apart as BERT does (letters and digits, or one symbol) and their words looked up."""

    def __init__(self, tokenizer: JsonTokenizer, dtype: np.dtype) -> None:
        self._tokenizer, self._dtype = tokenizer, dtype
        self._lowercase = tokenizer.library.normalizer.lowercase
        self._model = tokenizer.library.model
        self._stretches, self._words = _Cache(self._encode_stretch), _Cache(self._encode_word)
        self._apart: dict[str, bool] = {}

    def hang_together(self, text: str, sentences: list[str]) -> bool:
        """Whether sentences may have other ids by themselves than in their text: two meet within a word of BERT's, or
        one opens with a mark that combines with what is before it (normalising may put such marks in order)."""
        if text.isascii() and not _CONTROL(text):  # its blanks and its marks are BERT's, too
            return False
        end = 0
        for before, after in pairwise(sentences):
            end = text.index(before, end) + len(before)
            gap = text[end : text.index(after, end)]
            if not any(blank in gap for blank in " \n\t\r") and not self._are_apart(before[-1] + after[0]):
                return True
        return any(unicodedata.combining(sentence[0]) for sentence in sentences)

    def _are_apart(self, pair: str) -> bool:
        """Whether two characters that meet belong to different words."""
        if pair not in self._apart:
            library = self._tokenizer.library
            self._apart[pair] = len(library.pre_tokenizer.pre_tokenize_str(library.normalizer.normalize_str(pair))) > 1
        return self._apart[pair]

    def encode(self, sentence: str) -> bytes:
        if _CONTROL(sentence):
            return self._encode_by_library(sentence)
        return b"".join(map(self._stretches.__getitem__, sentence.split()))

    def _encode_stretch(self, stretch: str) -> bytes:
        if not stretch.isascii():
            return self._encode_by_library(stretch)
        words = _ASCII_WORDS(stretch.lower() if self._lowercase else stretch)
        return b"".join(map(self._words.__getitem__, words))

    def _encode_word(self, word: str) -> bytes:
        """A normalised word by the model alone, past normalisation and pre-tokenization."""
        return np.array([token.id for token in self._model.tokenize(word)], self._dtype).tobytes()

    def _encode_by_library(self, text: str) -> bytes:
        return np.array(self._tokenizer.encode(text), self._dtype).tobytes()
