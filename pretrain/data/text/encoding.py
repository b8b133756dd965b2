"""Sentences to token ids: the same ids as the `tokenizers` library, several times faster.

Text repeats itself. A word between two blanks is tokenized independently of its neighbours, so its ids are looked up,
and only new words reach the library.
"""

import json
import re
from collections.abc import Callable

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pretrain.data.text.indexed import token_dtype
from pretrain.data.text.sentencepiece import BLANK

_MAX_CACHED = 400_000
_MAX_CACHED_LENGTH = 40  # characters; longer ones hardly come again


class Encoder:
    """Encodes sentences without special tokens; text that looks like one ("[MASK]") stays text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        self.dtype = token_dtype(tokenizer.get_vocab_size())
        self._tokenizer = tokenizer
        self._stretches = _BertStretches(self) if is_bert_pipeline(tokenizer) else _Cache(self.encode_by_library)
        self._look_up = splits_at_blanks(tokenizer)

    def encode(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of all sentences, one after the other, and the number of each: [T] and [sentences] int64."""
        look_up = self._stretches.__getitem__
        encoded = [
            b"".join(map(look_up, sentence.split()))
            if self._look_up and not _CONTROL(sentence)
            else self.encode_by_library(sentence)
            for sentence in sentences
        ]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded)) // self.dtype.itemsize
        return np.frombuffer(b"".join(encoded), self.dtype), lengths

    def encode_by_library(self, text: str) -> bytes:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, self.dtype).tobytes()

    def encode_word(self, word: str) -> bytes:
        """A normalised word by the model alone, past normalisation and pre-tokenization."""
        return np.array([token.id for token in self._tokenizer.model.tokenize(word)], self.dtype).tobytes()


# Characters that Python counts as blank, or splits at, and the library removes.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]").search
_ASCII_WORDS = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9\s]").findall


def is_bert_pipeline(tokenizer: Tokenizer) -> bool:
    """Whether words are found as BERT finds them, and each becomes WordPieces by itself."""
    return (
        isinstance(tokenizer.model, models.WordPiece)
        and isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and tokenizer.normalizer.clean_text
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    )


def splits_at_blanks(tokenizer: Tokenizer) -> bool:
    """Whether a text becomes the same tokens as its blank-separated stretches one by one."""
    pipeline = json.loads(tokenizer.to_str())
    splitter = pipeline["pre_tokenizer"] or {"type": None}
    steps = (pipeline["normalizer"] or {}).get("normalizers", [])
    return (
        is_bert_pipeline(tokenizer)
        or (splitter["type"] == "Metaspace" and splitter["prepend_scheme"] == "always" and splitter["split"])
        or (splitter["type"] == "Split" and {"type": "Prepend", "prepend": BLANK} in steps)
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


class _BertStretches(_Cache):
    """Stretches of ASCII are taken apart as BERT does (letters and digits, or one symbol) and their words looked up."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(self._encode_stretch)
        self._encoder, self._words = encoder, _Cache(encoder.encode_word)
        self._lowercase = encoder._tokenizer.normalizer.lowercase

    def _encode_stretch(self, stretch: str) -> bytes:
        if not stretch.isascii():
            return self._encoder.encode_by_library(stretch)
        words = _ASCII_WORDS(stretch.lower() if self._lowercase else stretch)
        return b"".join(map(self._words.__getitem__, words))
