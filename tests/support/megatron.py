"""megatron-core's BERT dataset over a prepared corpus, as a reference for ours."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pretrain.data import Corpus

LENGTH = 128
"""Tokens in a row."""


def megatron_dataset(corpus: Corpus, cache: Path, whole_word: bool):
    """A `BERTMaskedWordPieceDataset` of 2000 samples. It builds its index in `cache`."""
    from megatron.core.datasets.bert_dataset import BERTMaskedWordPieceDataset, BERTMaskedWordPieceDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    tokenizer = SimpleNamespace(
        cls=corpus.special.cls,
        sep=corpus.special.sep,
        mask=corpus.special.mask,
        pad=corpus.special.pad,
        inv_vocab=dict(enumerate(corpus.tokenizer.tokens)),
        unique_identifiers={},
    )
    config = BERTMaskedWordPieceDatasetConfig(
        random_seed=1,
        sequence_length=LENGTH,
        path_to_cache=str(cache),
        tokenizer=tokenizer,
        masking_probability=0.15,
        short_sequence_probability=0.0,
        masking_max_ngram=1,
        masking_do_full_word=whole_word,
        masking_do_permutation=False,
        masking_use_longer_ngrams=False,
        masking_use_geometric_distribution=False,
        classification_head=True,
    )
    shard = IndexedDataset(str(corpus.directory / "train-00000"))
    documents = np.arange(len(shard.document_indices) - 1)
    return BERTMaskedWordPieceDataset(shard, str(corpus.directory), documents, 2000, Split.train, config)
