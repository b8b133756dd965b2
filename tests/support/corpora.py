"""Corpora of made-up words."""

import random
from pathlib import Path

from pretrain.data import Corpus, PrepareOptions, prepare


def made_up_documents(num_documents: int, seed: int = 0, longest: int = 40) -> list[str]:
    """Documents of 1..`longest` sentences whose words are several WordPiece tokens long now and then."""
    draw = random.Random(seed)
    syllables = ["ba", "do", "ki", "lu", "mer", "nof", "pi", "ras", "tu", "vek"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(300)]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=draw.randint(3, 14))).capitalize() + "."

    return [" ".join(sentence() for _ in range(draw.randint(1, longest))) for _ in range(num_documents)]


def prepared(directory: Path, documents: list[str], **options) -> Corpus:
    """`documents`, one a line, prepared below `directory` and opened."""
    (directory / "text.txt").write_text("\n".join(documents), "utf-8")
    defaults = dict(documents="line", vocab_size=200, valid_share=0.2, num_workers=1)
    prepare(PrepareOptions((str(directory / "text.txt"),), directory / "corpus", **(defaults | options)))
    return Corpus.open(directory / "corpus")
