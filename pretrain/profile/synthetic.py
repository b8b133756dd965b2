"""A corpus of made-up words, in rows of given lengths, to measure where no text is at hand."""

import random
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import yaml

from pretrain.data import PrepareOptions, Sampling, prepare

VOCABULARY = 8192
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUM_TRAINED, NUM_HELD_OUT = 900, 100
"""Rows. A run that needs more reads them again, with other masks."""


def synthetic_corpus(directory: Path, vocab_size: int, lengths: Sequence[int], sampling: Sampling) -> Path:
    """A prepared corpus whose documents each fill one row of one of `lengths` tokens, equally often, in random order.

    Pairs must be those of one document (`sop`) for that; `short_probability` cuts rows all the same.
    """
    drawn = sha256(repr((vocab_size, list(lengths), sampling.num_special)).encode()).hexdigest()[:12]
    corpus = directory / f"made-up-rows-{drawn}"
    if (corpus / "manifest.json").is_file():
        return corpus
    directory.mkdir(parents=True, exist_ok=True)
    words = [f"w{number}" for number in range(vocab_size - len(SPECIAL))]
    vocabulary = corpus.with_suffix(".vocab.txt")
    vocabulary.write_text("\n".join([*SPECIAL, *words]) + "\n", "utf-8")
    draw = random.Random(0)
    splits = {name: corpus.with_suffix(f".{name}.txt") for name in ("train", "valid")}
    for file, num_rows in zip(splits.values(), (NUM_TRAINED, NUM_HELD_OUT), strict=True):
        rows = [max(1, lengths[row % len(lengths)] - sampling.num_special) for row in range(num_rows)]
        draw.shuffle(rows)
        file.write_text("".join(" ".join(draw.choices(words, k=row)) + "\n" for row in rows), "utf-8")
    text, held_out = map(str, splits.values())
    options = PrepareOptions((text,), corpus, vocab=vocabulary, documents="line", valid=(held_out,), num_workers=1)
    prepare(options)
    for file in (vocabulary, *splits.values()):
        file.unlink()
    return corpus


def synthetic_recipe(directory: Path, sequence: int = 128) -> Path:
    """Writes corpus and recipe (4 layers of 256, full rows of `sequence`) and returns the recipe's file."""
    recipe = directory / "profile.yaml"
    if recipe.is_file():
        return recipe
    values = {
        "name": "profile",
        "model": {"preset": "mini", "hidden_dropout": 0, "attention_dropout": 0},
        "data": {"corpus": str(synthetic_corpus(directory, VOCABULARY, [sequence], Sampling()))},
        "optimizer": {"lr": 1e-4},
        "precision": "auto",
        "sequence": sequence,
        "batch": {"global": 32},
        "validation": {"rows": 8},
        "stages": [{"name": "only", "steps": 100}],
    }
    recipe.write_text(yaml.safe_dump(values), "utf-8")
    return recipe
