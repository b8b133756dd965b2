"""Rows become tensors: read, framed by [CLS] and [SEP], masked, and dealt to ranks and micro-batches."""

import numpy as np
import torch

from model.batch import Batch
from model.errors import UserError
from pretrain.data.corpus import Corpus, Split
from pretrain.data.hashing import hash_of
from pretrain.data.index import NUM_SPECIAL, DataPosition, Pieces, RowIndex
from pretrain.data.masking import Masking, mask_tokens

START = DataPosition()
_VALIDATION_SEED = 0
_MAX_COUNTED_TOKENS = 100_000_000


class TrainingData:
    """The rows of one stage, from `start` on, without end: epoch follows epoch.

    Every rank constructs the same object and asks for the same global batches, so that all agree on the position; each
    reads only the rows that are its own. Raises UserError when the sequence length leaves no room for text.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        seed: int,
        sequence_length: int,
        masking: Masking,
        start: DataPosition = START,
    ) -> None:
        if sequence_length < 2 * NUM_SPECIAL:
            raise UserError(f"sequence {sequence_length} is too short; it must be at least {2 * NUM_SPECIAL} tokens")
        self._corpus, self._seed, self._sequence_length, self._masking = corpus, seed, sequence_length, masking
        self._split = corpus.split(split)
        self._index = RowIndex(self._split, seed, sequence_length, start)

    @property
    def position(self) -> DataPosition:
        """Where the next row starts: all that a resumed run needs."""
        return self._index.position

    def next(self, num_rows: int, micro_batch: int, rank: int, num_ranks: int) -> list[Batch]:
        """Advances by a global batch of `num_rows` rows; returns this data-parallel rank's micro-batches of it."""
        assert num_rows % (micro_batch * num_ranks) == 0, (num_rows, micro_batch, num_ranks)
        rows = self._index.take(num_rows)
        first = np.arange(rank * micro_batch, num_rows, num_ranks * micro_batch)
        return [self._batch(rows[row : row + micro_batch]) for row in first]

    def _batch(self, rows: Pieces) -> Batch:
        return build_batch(self._corpus, self._split, self._seed, self._sequence_length, self._masking, rows)


def build_batch(corpus: Corpus, split: Split, seed: int, sequence_length: int, masking: Masking, rows: Pieces) -> Batch:
    """One micro-batch: [CLS] piece [SEP], then padding, for each of the rows."""
    lengths = rows.num_tokens
    keys = hash_of(seed, rows.epoch, rows.document, rows.offset)
    tokens = np.concatenate(
        [
            split.shards[shard].tokens[start : start + length]
            for shard, start, length in zip(rows.shard, rows.start, lengths, strict=True)
        ]
    ).astype(np.int64)
    masked_tokens, chosen = mask_tokens(tokens, lengths, keys, NUM_SPECIAL, masking, corpus)

    row_start = np.arange(len(rows)) * sequence_length  # all places below are flat: in B * S
    place = np.arange(len(tokens)) + np.repeat(row_start + 1 - (np.cumsum(lengths) - lengths), lengths)
    ids = np.full(len(rows) * sequence_length, corpus.special.pad)
    ids[row_start] = corpus.special.cls
    ids[place] = masked_tokens
    ids[row_start + lengths + 1] = corpus.special.sep
    segments = None
    if (lengths + NUM_SPECIAL < sequence_length).any():
        segments = torch.from_numpy((np.arange(sequence_length) < (lengths + NUM_SPECIAL)[:, None]).astype(np.int64))
    return Batch(
        ids=torch.from_numpy(ids).view(len(rows), sequence_length),  # [B, S]
        masked_positions=torch.from_numpy(place[chosen]),  # [M]
        masked_ids=torch.from_numpy(tokens[chosen]),  # [M]
        segments=segments,
    )


def validation_batches(
    corpus: Corpus,
    sequence_length: int,
    masking: Masking,
    num_rows: int,
    micro_batch: int,
    rank: int,
    num_ranks: int,
) -> list[Batch]:
    """This rank's share of the same `num_rows` rows with the same masks, whatever the run's seed.

    A validation split with fewer rows is gone through again, masked anew. Raises UserError when the rows do not divide.
    """
    if num_rows < 1 or num_rows % (micro_batch * num_ranks):
        raise UserError(
            f"{num_rows} validation rows do not divide into micro-batches of {micro_batch} on {num_ranks} ranks; "
            f"choose a multiple of {micro_batch * num_ranks}"
        )
    data = TrainingData(corpus, "valid", _VALIDATION_SEED, sequence_length, masking)
    return data.next(num_rows, micro_batch, rank, num_ranks)


def unigram_baseline(corpus: Corpus, sequence_length: int, masking: Masking, num_rows: int) -> tuple[float, float]:
    """Loss (nats) and accuracy, on the same validation targets, of the model that knows only how frequent tokens are.

    Frequencies are those of the training split (its first 100 million tokens), each token counted once more.
    """
    counts = np.ones(corpus.vocab_size)
    left = _MAX_COUNTED_TOKENS
    for shard in corpus.split("train").shards:
        counts += np.bincount(shard.tokens[:left], minlength=corpus.vocab_size)
        left = max(0, left - len(shard.tokens))
    (batch,) = validation_batches(corpus, sequence_length, masking, num_rows, num_rows, 0, 1)
    targets = batch.masked_ids.numpy()
    loss = -np.log(counts[targets] / counts.sum()).mean()
    return float(loss), float((targets == counts.argmax()).mean())
