"""Tokenizers: train one, or take a given one as it is; its file and the file's hash travel with all that is made."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.errors import UserError
from pretrain.data.text.byte_bpe import train_byte_bpe
from pretrain.data.text.characters import train_characters
from pretrain.data.text.json_tokenizer import BLANK, JsonTokenizer
from pretrain.data.text.output import replace
from pretrain.data.text.residues import residues
from pretrain.data.text.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from pretrain.data.text.special import SPECIAL_TOKENS, SpecialIds
from pretrain.data.text.wordpiece import read_vocab_txt, renormalise, train_wordpiece, transformers_settings

__all__ = ["BLANK", "SPECIAL_TOKENS", "SpecialIds", "TextTokenizer", "Vocabulary"]

TextTokenizer = JsonTokenizer | SentencePieceTokenizer
"""Encodes by the library that owns its file."""

_KINDS = {each.file_name: each for each in (SentencePieceTokenizer, JsonTokenizer)}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and what its ids are."""

    tokenizer: TextTokenizer

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Raises UserError when the tokenizer is broken or lacks a special token."""
        return cls(read_tokenizer(path))

    @property
    def special(self) -> SpecialIds:
        return self.tokenizer.special

    @property
    def vocab_size(self) -> int:
        """The largest id + 1."""
        return len(self.tokenizer.tokens)

    @property
    def word_starts(self) -> np.ndarray:
        """[vocab] bool: whether a token opens a word."""
        return self.tokenizer.word_starts

    @cached_property
    def is_special(self) -> np.ndarray:
        """[vocab] bool."""
        special = np.zeros(len(self.tokenizer.tokens), bool)
        special[self.special.all()] = True
        return special

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """The ids of tokens that are not special: what a random replacement is drawn from."""
        exists = np.array([token is not None for token in self.tokenizer.tokens])
        return np.flatnonzero(exists & ~self.is_special)


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int, lowercase: bool) -> TextTokenizer:
    """A new vocabulary of at most `vocab_size` tokens from `texts`; kind is "wordpiece", "characters",
    "unigram" or "bpe" (SentencePiece's), "byte-bpe", or "residues", which is the same for all texts.

    Raises UserError when the vocabulary has no room for anything but the special tokens.
    """
    if vocab_size <= len(SPECIAL_TOKENS):
        raise UserError(f"vocab_size {vocab_size} is too small; {len(SPECIAL_TOKENS)} of its tokens are special ones")
    if kind in ("unigram", "bpe"):
        return train_sentencepiece(kind, texts, vocab_size, lowercase)
    if kind == "residues":
        return JsonTokenizer.of(residues(vocab_size))
    train = {"wordpiece": train_wordpiece, "characters": train_characters, "byte-bpe": train_byte_bpe}[kind]
    return JsonTokenizer.of(train(texts, vocab_size, lowercase))


def load_tokenizer(path: Path, lowercase: bool = True) -> TextTokenizer:
    """A given tokenizer: a tokenizer.json, a SentencePiece .model, a vocab.txt with one WordPiece token a line, or the
    folder of a model that transformers saved.

    Its file says whether it lowers the case; `lowercase` false demands that it does not. Raises UserError when the file
    is missing, broken or lacks a special token, or when it lowers the case all the same.
    """
    if path.is_dir():
        found = transformers_tokenizer(path)
        if found is None:
            raise UserError(f"vocabulary {path} is a folder without tokenizer.json or vocab.txt; give one that has it")
        tokenizer = found
    elif path.is_file():
        tokenizer = _load_file(path, lowercase)
    else:
        raise UserError(f"vocabulary {path} does not exist; give a vocab.txt or a tokenizer.json, or train one")
    if tokenizer.lowers_case and not lowercase:
        raise UserError(f"--no-lowercase contradicts {path}, which lowers the case; leave it out")
    return tokenizer


def _load_file(path: Path, lowercase: bool) -> TextTokenizer:
    with _reading(path, path.stat().st_size):
        if path.suffix == ".json":
            return JsonTokenizer.of(Tokenizer.from_str(path.read_bytes().decode("utf-8-sig")))
        if path.suffix == ".model":
            return SentencePieceTokenizer(path.read_bytes())
        return JsonTokenizer.of(read_vocab_txt(path, lowercase))


@contextmanager
def _reading(path: Path, num_bytes: int) -> Iterator[None]:
    if num_bytes == 0:
        raise UserError(f"vocabulary {path} is empty; put the right file there")
    try:
        yield
    except UserError as error:
        raise UserError(f"vocabulary {path}: {error}") from None
    except Exception as error:  # the tokenizers library raises bare Exception for every broken file
        raise UserError(f"vocabulary {path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def read_tokenizer(path: Path) -> TextTokenizer:
    """What `save_tokenizer` wrote, to the byte. Raises UserError when it is missing or broken."""
    if not path.is_file():
        raise UserError(f"tokenizer {path} does not exist; put it back, or prepare the corpus again")
    return tokenizer_in(path, path.read_bytes())


def tokenizer_in(path: Path, content: bytes) -> TextTokenizer:
    """From the content of its file at `path`, which another process may have read. Raises UserError as above."""
    with _reading(path, len(content)):
        return tokenizer_of(path.name, content)


def transformers_tokenizer(folder: Path) -> TextTokenizer | None:
    """That of a model saved by transformers: its tokenizer.json, or else vocab.txt, normalised as its
    tokenizer_config.json says; of our own exports, the SentencePiece model they were made from. None without these."""
    own, file = folder / SentencePieceTokenizer.file_name, folder / JsonTokenizer.file_name
    is_as_saved = transformers_settings(folder).get("tokenizer_class") == "PreTrainedTokenizerFast"
    if own.is_file() and is_as_saved:
        return load_tokenizer(own)
    if file.is_file():
        tokenizer = load_tokenizer(file)
        if not is_as_saved:
            library = tokenizer.for_transformers()
            renormalise(library, folder)
            tokenizer = JsonTokenizer.of(library)
        return tokenizer
    return load_tokenizer(folder / "vocab.txt") if (folder / "vocab.txt").is_file() else None


def tokenizer_of(file_name: str, content: bytes) -> TextTokenizer:
    """From the name and the content of its file."""
    return _KINDS[file_name](content)


def saved_tokenizer(directory: Path) -> Path | None:
    """The file that `save_tokenizer` wrote there."""
    return next((directory / name for name in _KINDS if (directory / name).is_file()), None)


def save_tokenizer(tokenizer: TextTokenizer, directory: Path) -> str:
    """Writes its file, and vocab.txt (one token a line, in order of id); returns the file's hash."""
    file = directory / tokenizer.file_name
    replace(file, tokenizer.content)
    lines = (token.replace("\n", "\\n") if token else "" for token in tokenizer.tokens)
    (directory / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return tokenizer_hash(file)


def tokenizer_hash(path: Path) -> str:
    """sha256 of its file: two corpora, or a corpus and a checkpoint, fit together when it is equal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
