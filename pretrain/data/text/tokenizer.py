"""Trains a tokenizer or loads a given one. Its JSON file and hash accompany everything made with it."""

import hashlib
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from model.errors import UserError
from pretrain.data.text.sentencepiece import BLANK, convert_sentencepiece, train_sentencepiece

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_OTHER_NAMES = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}


@dataclass(frozen=True)
class SpecialIds:
    """Token ids of the special tokens."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialIds":
        """By name: BERT's, or SentencePiece's. Raises UserError when one is missing."""
        found = [tokenizer.token_to_id(name) for name in special_names(tokenizer)]
        ids = [id for id in found if id is not None]
        if len(ids) < len(found):
            missing = ", ".join(token for token, id in zip(SPECIAL_TOKENS, found, strict=True) if id is None)
            raise UserError(f"the vocabulary lacks {missing}; it must hold {', '.join(SPECIAL_TOKENS)}")
        return cls(*ids)

    def all(self) -> list[int]:
        return [self.pad, self.unk, self.cls, self.sep, self.mask]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and what its ids are."""

    tokenizer: Tokenizer
    special: SpecialIds

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """A tokenizer.json. Raises UserError when it is broken or lacks a special token."""
        tokenizer = load_tokenizer(path, lowercase=False)
        return cls(tokenizer, SpecialIds.of(tokenizer))

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    @cached_property
    def word_starts(self) -> np.ndarray:
        """[vocab] bool: whether a token opens a word."""
        return word_starts(self.tokenizer)

    @cached_property
    def is_special(self) -> np.ndarray:
        """[vocab] bool."""
        special = np.zeros(self.vocab_size, bool)
        special[self.special.all()] = True
        return special

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """The ids of ordinary tokens, from which random replacements are drawn."""
        return np.flatnonzero(~self.is_special)


def special_names(tokenizer: Tokenizer) -> list[str]:
    """What the tokenizer calls [PAD], [UNK], [CLS], [SEP] and [MASK]."""
    knows = tokenizer.token_to_id
    return [
        other if knows(name) is None and knows(other := _OTHER_NAMES[name]) is not None else name
        for name in SPECIAL_TOKENS
    ]


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """A new vocabulary of at most `vocab_size` tokens from `texts`; kind is "wordpiece", "characters",
    "unigram" or "bpe" (SentencePiece's).

    Raises UserError when the vocabulary has no room for anything but the special tokens.
    """
    if vocab_size <= len(SPECIAL_TOKENS):
        raise UserError(f"vocab_size {vocab_size} is too small; {len(SPECIAL_TOKENS)} of its tokens are special ones")
    if kind in ("unigram", "bpe"):
        return train_sentencepiece(kind, texts, vocab_size, lowercase)
    return {"wordpiece": _train_wordpiece, "characters": _train_characters}[kind](texts, vocab_size, lowercase)


def load_tokenizer(path: Path, lowercase: bool) -> Tokenizer:
    """A given tokenizer: a tokenizer.json, a SentencePiece .model, or a vocab.txt with one WordPiece token a line.

    Special tokens that a .model lacks (usually [MASK]) are added at the end of its vocabulary. Settings of a
    tokenizer.json for framing, padding and truncation are ignored: batches decide that, and the hash must not depend on
    them.

    Raises UserError when the file is missing, broken or lacks a special token.
    """
    if not path.is_file():
        raise UserError(f"vocabulary {path} does not exist; give a vocab.txt or a tokenizer.json, or train one")
    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
        elif path.suffix == ".model":
            tokenizer = convert_sentencepiece(path.read_bytes())
            names = special_names(tokenizer)
            tokenizer.add_special_tokens([name for name in names if tokenizer.token_to_id(name) is None])
        else:
            vocabulary = {token: id for id, token in enumerate(path.read_text("utf-8").splitlines())}
            tokenizer = _wordpiece(vocabulary, lowercase)
    except Exception as error:  # the tokenizers library raises bare Exception for every broken file
        raise UserError(f"vocabulary {path} cannot be read: {error}") from error
    SpecialIds.of(tokenizer)
    tokenizer.post_processor = None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> str:
    """Writes tokenizer.json and vocab.txt (one token a line, in order of id); returns the tokenizer's hash."""
    tokenizer.save(str(directory / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab()
    (directory / "vocab.txt").write_text(
        "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__)), "utf-8"
    )
    return tokenizer_hash(directory / "tokenizer.json")


def tokenizer_hash(path: Path) -> str:
    """sha256 of a tokenizer.json: two corpora, or a corpus and a checkpoint, fit together when it is equal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def word_starts(tokenizer: Tokenizer) -> np.ndarray:
    """[vocab] bool: whether a token opens a word. What does not is masked together with what stands before it."""
    vocabulary = tokenizer.get_vocab()
    in_order = sorted(vocabulary, key=vocabulary.__getitem__)
    if isinstance(tokenizer.model, models.WordPiece):
        return np.array([not token.startswith("##") for token in in_order])
    return np.array([token.startswith(BLANK) for token in in_order])


def _wordpiece(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    """BERT's own (Devlin et al. 2018): clean, lower, strip accents, split at blanks and punctuation, then WordPiece."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    return tokenizer


def _train_wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """The `tokenizers` trainer, made deterministic.

    By itself it numbers characters and their ##-forms in the order of a randomly seeded hash map and breaks ties by
    those numbers. Here it gets both in a fixed order. Rare characters are omitted: each costs up to two entries and
    must not crowd out words.
    """
    texts = list(texts)
    blank = _wordpiece({}, lowercase)
    alphabet = sorted(_commonest_characters(texts, blank, min(1000, vocab_size // 4)))
    continuing = [f"##{character}" for character in alphabet if not _stands_alone(character)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS + continuing,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)
    return _wordpiece(blank.get_vocab(), lowercase)


def _commonest_characters(texts: Iterable[str], tokenizer: Tokenizer, limit: int) -> list[str]:
    """The characters of the normalised texts, most frequent first; equally frequent ones by code point. No blanks."""
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text).encode("utf-32-le")
        np.add.at(counts, np.frombuffer(normal, np.uint32), 1)
    order = np.argsort(-counts, kind="stable")
    found = (chr(code) for code in order[: np.count_nonzero(counts)])
    return list(islice((character for character in found if not character.isspace()), limit))


def _stands_alone(character: str) -> bool:
    """Whether BERT's pre-tokenizer always makes a word of its own of it, so that it never continues one."""
    is_ascii_symbol = character.isascii() and not character.isalnum()
    is_chinese = "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
    return is_ascii_symbol or is_chinese or unicodedata.category(character).startswith("P")


def _train_characters(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """The commonest characters, one token each; a word begins with the token of the blank before it."""
    tokenizer = Tokenizer(models.WordLevel({}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.BertNormalizer(lowercase=lowercase, handle_chinese_chars=False),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend(BLANK),
            normalizers.Replace(" ", BLANK),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(BLANK, " "), decoders.Strip(" ", 1, 0)])
    tokens = SPECIAL_TOKENS + _commonest_characters(texts, tokenizer, vocab_size - len(SPECIAL_TOKENS))
    tokenizer.model = models.WordLevel({token: id for id, token in enumerate(tokens)}, unk_token="[UNK]")
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer
