from pathlib import Path

import numpy as np
import pytest

from model.errors import UserError
from pretrain.data.indexed import IndexedReader, IndexedWriter, token_dtype

DOCUMENTS = [[[1, 2, 3], [4]], [[5, 6]], [[7], [8, 9], [10]]]


@pytest.mark.parametrize("vocab_size", [100, 100_000])
def test_megatron_reads_what_we_write(tmp_path: Path, vocab_size: int) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    writer = IndexedWriter(tmp_path / "shard", token_dtype(vocab_size))
    for document in DOCUMENTS:
        writer.append(np.concatenate(document), np.array([len(s) for s in document]), np.array([len(document)]))
    writer.close()
    theirs = IndexedDataset(str(tmp_path / "shard"))
    assert [theirs[i].tolist() for i in range(len(theirs))] == [s for document in DOCUMENTS for s in document]
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
    writer = IndexedWriter(tmp_path / "shard", token_dtype(100))
    writer.append(np.arange(5), np.array([5]), np.array([1]))
    writer.close()
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
