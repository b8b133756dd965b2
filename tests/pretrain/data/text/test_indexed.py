from pathlib import Path

import numpy as np
import pytest

from model.errors import UserError
from pretrain.data.text.indexed import IndexedReader, token_dtype, write_index

DOCUMENTS = [[[1, 2, 3], [4]], [[5, 6]], [[7], [8, 9], [10]]]


def write_shard(directory: Path, dtype: np.dtype, sentences: list[list[int]], num_sentences: list[int]) -> None:
    np.concatenate(sentences).astype(dtype).tofile(directory / "shard.bin")
    lengths = np.array([len(sentence) for sentence in sentences])
    write_index(directory / "shard.idx", dtype, lengths, np.array(num_sentences))


@pytest.mark.parametrize("vocab_size", [100, 100_000])
def test_megatron_reads_what_we_write(tmp_path: Path, vocab_size: int) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    sentences = [sentence for document in DOCUMENTS for sentence in document]
    write_shard(tmp_path, token_dtype(vocab_size), sentences, [len(document) for document in DOCUMENTS])
    theirs = IndexedDataset(str(tmp_path / "shard"))
    assert [theirs[i].tolist() for i in range(len(theirs))] == sentences
    assert theirs.document_indices.tolist() == [0, 2, 3, 6]
    assert theirs[0].dtype == token_dtype(vocab_size)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_we_read_what_megatron_writes(tmp_path: Path, dtype: type) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "shard.bin"), dtype=dtype)
    for document in DOCUMENTS:
        builder.add_document([token for sentence in document for token in sentence], [len(s) for s in document])
    builder.finalize(str(tmp_path / "shard.idx"))
    ours = IndexedReader(tmp_path / "shard")
    assert ours.tokens.tolist() == list(range(1, 11)) and ours.tokens.dtype == dtype
    assert ours.document_sentences.tolist() == [0, 2, 3, 6] and ours.sentence_lengths.tolist() == [3, 1, 2, 1, 2, 1]
    assert ours.sentence_starts(np.arange(7)).tolist() == [0, 3, 4, 6, 7, 9, 10]


def test_broken_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        IndexedReader(tmp_path / "shard")
    write_shard(tmp_path, token_dtype(100), [[0, 1, 2, 3, 4]], [1])
    idx, tokens = tmp_path / "shard.idx", tmp_path / "shard.bin"
    whole = idx.read_bytes()
    idx.write_bytes(whole[:-3])
    with pytest.raises(UserError, match="bytes"):
        IndexedReader(tmp_path / "shard")
    idx.write_bytes(b"x" * len(whole))
    with pytest.raises(UserError, match="not an IndexedDataset"):
        IndexedReader(tmp_path / "shard")
    idx.write_bytes(whole)
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(UserError, match="4 tokens, 5 were announced"):
        IndexedReader(tmp_path / "shard")
