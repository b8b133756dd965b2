"""BERT's WordPiece (Devlin et al. 2018): a vocab.txt, or a vocabulary trained from text."""

import json
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from model.errors import UserError
from pretrain.data.text.special import SPECIAL_TOKENS, special_names

_COVERED = 0.9995
"""Of all characters of a text, as in SentencePiece: rarer ones are left out, lest they take the room of words."""


def wordpiece(
    vocabulary: dict[str, int], lowercase: bool, strip_accents: bool | None = None, chinese_characters: bool = True
) -> Tokenizer:
    """Clean, lower, strip accents (None: where it lowers), split at blanks, punctuation and Chinese characters."""
    names = special_names(vocabulary.get)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=names[1], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese_characters
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in names if token in vocabulary])
    return tokenizer


def read_vocab_txt(path: Path, lowercase: bool = True) -> Tokenizer:
    """One token a line, read as the `tokenizers` library reads it, less a byte order mark.

    A tokenizer_config.json next to it says whether it lowers the case, and similar settings. Without one, a vocabulary
    with capitals keeps the case, and `lowercase` decides for others. Raises UserError when that file is broken.
    """
    vocabulary = _read_lines(path)
    if (path.parent / "tokenizer_config.json").is_file():
        return wordpiece(vocabulary, **bert_settings(path.parent))
    names = special_names(vocabulary.get)
    ordinary = (token for token in vocabulary if token not in names and not token.startswith("[unused"))
    return wordpiece(vocabulary, lowercase and not any(token != token.lower() for token in ordinary))


def bert_settings(
    folder: Path, lowercase: bool = True, strip_accents: bool | None = None, chinese_characters: bool = True
) -> dict[str, Any]:
    """What a tokenizer_config.json of transformers says of the normaliser; what it leaves out is as given."""
    found = transformers_settings(folder)
    names = {
        "lowercase": "do_lower_case",
        "strip_accents": "strip_accents",
        "chinese_characters": "tokenize_chinese_chars",
    }
    given = {"lowercase": lowercase, "strip_accents": strip_accents, "chinese_characters": chinese_characters}
    settings = {ours: found.get(theirs, given[ours]) for ours, theirs in names.items()}
    for ours, value in settings.items():
        if not isinstance(value, bool) and (value is not None or ours != "strip_accents"):
            file = folder / "tokenizer_config.json"
            raise UserError(f"{file}: {names[ours]} {value!r} must be true or false; copy the model's own there")
    return settings


def transformers_settings(folder: Path) -> dict[str, Any]:
    """A tokenizer_config.json; empty where there is none. Raises UserError when it is broken."""
    file = folder / "tokenizer_config.json"
    try:
        found = json.loads(file.read_text("utf-8-sig")) if file.is_file() else {}
        return dict(found.items())
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} cannot be read: {error}; copy the model's own there") from error


def renormalise(tokenizer: Tokenizer, folder: Path) -> None:
    """Lets what a tokenizer_config.json says of BERT's normaliser overrule a tokenizer.json, as transformers does."""
    ours = tokenizer.normalizer
    if isinstance(ours, normalizers.BertNormalizer):
        settings = bert_settings(folder, ours.lowercase, ours.strip_accents, ours.handle_chinese_chars)
        ours.lowercase, ours.strip_accents = settings["lowercase"], settings["strip_accents"]
        ours.handle_chinese_chars = settings["chinese_characters"]
        tokenizer.normalizer = ours


def _read_lines(path: Path) -> dict[str, int]:
    content = path.read_bytes()
    if not content.startswith(b"\xef\xbb\xbf"):
        return models.WordPiece.read_file(str(path))
    with tempfile.TemporaryDirectory() as folder:
        without = Path(folder, path.name)
        without.write_bytes(content.removeprefix(b"\xef\xbb\xbf"))
        return models.WordPiece.read_file(str(without))


def train_wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """The `tokenizers` trainer, made deterministic.

    Left alone it numbers characters and their ##-forms in the order of a randomly seeded hash map and breaks ties by
    those numbers. Here both are given to it in a fixed order.
    """
    texts = list(texts)
    blank = wordpiece({}, lowercase)
    alphabet = sorted(_alphabet(texts, blank, vocab_size))
    continuing = [f"##{character}" for character in alphabet if not _stands_alone(character)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS + continuing,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)
    return wordpiece(blank.get_vocab(), lowercase)


def _alphabet(texts: list[str], tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """The characters to keep: the most frequent ones.

    A thousand, if they take no more than a quarter of the vocabulary; then more, until they cover almost all of the
    text or half of the vocabulary is theirs. Chinese text needs several thousand. A character costs two entries where
    it also continues words.
    """
    counts = character_counts(texts, tokenizer)
    least, room = min(1000, vocab_size // 4), vocab_size // 2
    total, covered, entries = sum(counts.values()), 0, 0
    kept: list[str] = []
    for character, count in counts.items():
        entries += 1 if _stands_alone(character) else 2
        if len(kept) >= least and (covered >= _COVERED * total or entries > room):
            break
        kept.append(character)
        covered += count
    return kept


def character_counts(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, int]:
    """The characters of the normalised texts, most frequent first; equally frequent ones by code point. No blanks."""
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text).encode("utf-32-le")
        np.add.at(counts, np.frombuffer(normal, np.uint32), 1)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return {chr(code): int(counts[code]) for code in order if not chr(code).isspace()}


def _stands_alone(character: str) -> bool:
    """Whether BERT's pre-tokenizer always makes a separate word of it, so that it never continues one."""
    is_ascii_symbol = character.isascii() and not character.isalnum()
    is_chinese = "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
    return is_ascii_symbol or is_chinese or unicodedata.category(character).startswith("P")
