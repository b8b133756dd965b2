"""A corpus of made-up words and a recipe for it, to measure layouts where no text is at hand."""

import random
from pathlib import Path

import yaml

from pretrain.data import PrepareOptions, prepare

VOCABULARY = 8192


def synthetic_recipe(directory: Path, sequence: int = 128) -> Path:
    """Writes corpus and recipe (4 layers of 256, full rows of `sequence`) and returns the recipe's file."""
    recipe = directory / "profile.yaml"
    if recipe.is_file():
        return recipe
    directory.mkdir(parents=True, exist_ok=True)
    words = [f"w{number}" for number in range(VOCABULARY - 5)]
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", "utf-8")
    draw = random.Random(0)
    text = directory / "text.txt"
    with text.open("w", encoding="utf-8") as lines:
        for _ in range(600):
            lines.write(" ".join(draw.choices(words, k=(sequence - 2) * 8)) + "\n")
    prepare(PrepareOptions((str(text),), directory / "corpus", vocab=vocabulary, documents="line", valid_share=0.1))
    values = {
        "name": "profile",
        "model": {"preset": "mini", "hidden_dropout": 0, "attention_dropout": 0},
        "data": {"corpus": str(directory / "corpus")},
        "optimizer": {"lr": 1e-4},
        "precision": "auto",
        "sequence": sequence,
        "batch": {"global": 32},
        "validation": {"rows": 8},
        "stages": [{"name": "only", "steps": 100}],
    }
    recipe.write_text(yaml.safe_dump(values), "utf-8")
    return recipe
