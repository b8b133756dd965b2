"""Whether a corpus gives words the ids that a checkpoint knows them by."""

from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.data import Corpus


def other_vocabulary(run: dict[str, Any], corpus: Corpus, path: Path) -> UserError | None:
    """Set where the corpus gives words other ids than the one that the checkpoint at `path` was trained on."""
    if run.get("tokenizer", corpus.tokenizer_hash) == corpus.tokenizer_hash:  # without: from elsewhere, no tokenizer
        return None
    return UserError(
        f"corpus {corpus.path} was made with another vocabulary than checkpoint {path}; "
        "name the corpus it was trained on, or one prepared with its tokenizer"
    )
