"""Corpora: prepare them once, read them as masked batches from any position."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pretrain.data.corpus import Corpus
from pretrain.data.index import DataPosition
from pretrain.data.masking import Masking
from pretrain.data.sampling import Sampling
from pretrain.data.text.options import PrepareOptions, Progress
from pretrain.data.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    from pretrain.data.batches import TrainingData, unigram_baseline, validation_batches
    from pretrain.data.text.prepare import prepare

__all__ = [
    "Corpus",
    "DataPosition",
    "Masking",
    "PrepareOptions",
    "Progress",
    "Sampling",
    "TrainingData",
    "Vocabulary",
    "prepare",
    "unigram_baseline",
    "validation_batches",
]


def __getattr__(name: str) -> Any:
    """The names above that need torch, which preparing a corpus does not, or the worker processes of preparing."""
    if name in __all__:
        module = "pretrain.data.text.prepare" if name == "prepare" else "pretrain.data.batches"
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
