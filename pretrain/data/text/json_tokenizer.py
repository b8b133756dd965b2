"""A tokenizer.json (or what becomes one), encoded by the library that owns it: `tokenizers`."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from model.errors import UserError
from pretrain.data.text.special import SpecialIds, special_names

BLANK = "▁"  # stands for the blank before a word, in SentencePiece's vocabularies and those of characters
LARGEST_ID = 10_000_000
"""Forty times the largest vocabulary in use."""


class Encoded(NamedTuple):
    """A document's tokens."""

    ids: Sequence[int] | np.ndarray
    ends: Sequence[int] | np.ndarray
    """The character of the document where each token ends."""
    opens_word: np.ndarray | None
    """[T] bool; None where the tokens tell by themselves (`stores_words` is false)."""


class JsonTokenizer:
    """The ids are the library's, whatever the pipeline in the file.

    One difference: the five special tokens are never found in a text; "[MASK]" in it stays text. All other added
    tokens are found, special or not.
    """

    file_name: ClassVar = "tokenizer.json"

    def __init__(self, content: bytes) -> None:
        """`content` of a tokenizer.json. Raises UserError when a special token is missing."""
        self.content = content
        self.library = Tokenizer.from_str(content.decode("utf-8"))
        _check_ids(self.library)
        self.special = SpecialIds.named(self.library.token_to_id)
        names = set(self.special_names)
        added = self.library.get_added_tokens_decoder().values()
        self.has_added_tokens = any(token.content not in names for token in added)
        if any(token.special and token.content not in names for token in added):
            self.library = Tokenizer.from_str(_without_other_specials(content, names))
        self.library.encode_special_tokens = True

    @classmethod
    def of(cls, library: Tokenizer) -> "JsonTokenizer":
        """Framing, padding and cutting are left out: a batch decides them, and the hash does not depend on them.

        Raises UserError for BPE with dropout, whose ids are drawn at random, and for ids that no model has room for.
        """
        if getattr(library.model, "dropout", None):
            raise UserError(f'"dropout": {library.model.dropout} draws its ids at random; set it to null in the file')
        _check_ids(library)
        library.post_processor = None
        library.no_padding()
        library.no_truncation()
        return cls(library.to_str(pretty=True).encode())

    @cached_property
    def tokens(self) -> list[str | None]:
        """By id. None where the vocabulary has a hole, as where a vocab.txt holds a token twice."""
        by_token = self.library.get_vocab()
        tokens: list[str | None] = [None] * (1 + max(by_token.values()))
        for token, id in by_token.items():
            tokens[id] = token
        return tokens

    @property
    def special_names(self) -> list[str]:
        return special_names(self.library.token_to_id)

    @property
    def lowers_case(self) -> bool:
        return bool(self.library.normalizer) and self.library.normalizer.normalize_str("A") == "a"

    @property
    def spells(self) -> bool:
        """Whether a token is a character."""
        return isinstance(self.library.model, models.WordLevel) and self.token_to_id(BLANK) is not None

    @cached_property
    def word_starts(self) -> np.ndarray:
        """[vocab] bool: whether a token opens a word. What does not is masked together with what stands before it."""
        if isinstance(self.library.model, models.WordPiece):
            return np.array([token is not None and not token.startswith("##") for token in self.tokens])
        return np.array([token is not None and token.startswith(BLANK) for token in self.tokens])

    @cached_property
    def stores_words(self) -> bool:
        """Whether `word_starts` is not enough, since a word may open with any token: a corpus then stores where."""
        pre_tokenizer = self.library.pre_tokenizer
        if isinstance(self.library.model, models.WordPiece):
            return not isinstance(pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        has_blanks = any(token.startswith(BLANK) for token in self.tokens if token)
        by_blank = pre_tokenizer is None or isinstance(pre_tokenizer, pre_tokenizers.Metaspace) or self.spells
        return not (has_blanks and by_blank)

    def encode(self, text: str) -> list[int]:
        return self.library.encode(text, add_special_tokens=False).ids

    def encode_masked(self, text: str) -> list[int]:
        """As `encode`, but "[MASK]" in the text is the mask."""
        self.library.encode_special_tokens = False
        try:
            return self.encode(text.replace("[MASK]", self.special_names[-1]))
        finally:
            self.library.encode_special_tokens = True

    def encode_documents(self, texts: list[str]) -> list[Encoded]:
        """Whole documents: no limit of a sentence changes an id."""
        encodings = self.library.encode_batch(texts, add_special_tokens=False)
        return [
            Encoded(
                each.ids, [end for _, end in each.offsets], self._opened(each.word_ids) if self.stores_words else None
            )
            for each in encodings
        ]

    def _opened(self, words: list[int | None]) -> np.ndarray:
        """[T] from the word of each token, as the pre-tokenizer cut them."""
        if self.library.pre_tokenizer is None:
            return np.ones(len(words), bool)
        return np.diff(np.array(words, np.int64), prepend=-1) != 0

    def decode(self, ids: Sequence[int]) -> str:
        return self.library.decode(list(ids))

    def token_to_id(self, token: str) -> int | None:
        return self.library.token_to_id(token)

    def id_to_token(self, id: int) -> str | None:
        return self.library.id_to_token(id)

    def for_transformers(self) -> Tokenizer:
        """A copy that transformers is to read: as it was given."""
        return Tokenizer.from_str(self.content.decode("utf-8"))


def _check_ids(library: Tokenizer) -> None:
    """Raises UserError: the library writes a line for every id below the largest, and a model has a row for it."""
    token, largest = max(library.get_vocab().items(), key=lambda item: item[1], default=("", 0))
    if largest > LARGEST_ID:
        raise UserError(f"token {token!r} has id {largest}; ids go up to {LARGEST_ID}: mend it in the file")


def _without_other_specials(content: bytes, names: set[str]) -> str:
    """The same file with special tokens other than `names` added as ordinary ones, which are found in a text."""
    pipeline = json.loads(content)
    for token in pipeline["added_tokens"]:
        token["special"] = token["content"] in names
    return json.dumps(pipeline)
