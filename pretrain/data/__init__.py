"""Corpora: prepare them once, read them as masked batches from any position."""

from pretrain.data.batches import TrainingData, unigram_baseline, validation_batches
from pretrain.data.corpus import Corpus
from pretrain.data.index import DataPosition
from pretrain.data.masking import Masking
from pretrain.data.prepare import PrepareOptions, Progress, prepare

__all__ = [
    "Corpus",
    "DataPosition",
    "Masking",
    "PrepareOptions",
    "Progress",
    "TrainingData",
    "prepare",
    "unigram_baseline",
    "validation_batches",
]
