"""Turns rows into tensors: reads them, adds [CLS] and [SEP], masks, and distributes over ranks and micro-batches."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from model.batch import Batch
from pretrain.data.corpus import Corpus
from pretrain.data.hashing import hash_of
from pretrain.data.index import DataPosition, RowIndex, Rows
from pretrain.data.masking import Masking, mask_tokens
from pretrain.data.objective import Objective, next_tokens
from pretrain.data.packing import deal
from pretrain.data.pieces import Pieces
from pretrain.data.sampling import Sampling
from pretrain.data.text.indexed import IndexedReader

START = DataPosition()
PLAIN = Sampling()
_VALIDATION_SEED = 0
_MAX_COUNTED_TOKENS = 100_000_000


class TrainingData:
    """The rows of one stage from `start` on, epoch after epoch without end.

    Every rank constructs the same object and asks for the same global batches, so all agree on the position; each reads
    only its own rows. Raises UserError if the sequence length leaves no room for text.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        seed: int,
        sequence_length: int,
        masking: Masking,
        start: DataPosition = START,
        sampling: Sampling = PLAIN,
        arrange: Callable[[Batch], Batch] = lambda batch: batch,
        objective: Objective = "mlm",
    ) -> None:
        """`arrange`: brings each batch into the form that the model reads (`model.variants.parts.arrange_for`)."""
        assert objective == "mlm" or sampling.sentence_pairs == "none", "pairs do not follow one another"
        self._corpus, self._seed, self._sequence_length = corpus, seed, sequence_length
        self._masking, self._sampling, self._arrange = masking, sampling, arrange
        self._objective = objective
        self._split = corpus.split(split)
        self._index = RowIndex(self._split, sampling, seed, sequence_length, start)

    @property
    def position(self) -> DataPosition:
        """Where the next row starts: all that a resume needs."""
        return self._index.position

    def next(
        self,
        num_rows: int,
        micro_batch: int,
        rank: int,
        num_ranks: int,
        mask_rate: float | None = None,
        num_counted: int | None = None,
    ) -> list[Batch]:
        """Advances by a global batch of `num_rows` rows; returns this data-parallel rank's micro-batches of it.

        Rows are distributed so that all ranks, and all micro-batches of a rank, hold nearly the same number of tokens.
        `mask_rate` takes the place of the masking's. Of the rows after the first `num_counted` nothing is predicted:
        they only fill up. None: all count.
        """
        assert num_rows % (micro_batch * num_ranks) == 0, (num_rows, micro_batch, num_ranks)
        rows = self._index.take(num_rows)
        tokens = np.bincount(rows.row, rows.pieces.num_tokens + self._sampling.num_special).astype(np.int64)
        mine = deal(tokens, num_ranks)[rank]
        hands = deal(tokens[mine], len(mine) // micro_batch)
        masking = self._masking
        if mask_rate is not None:
            masking = masking.model_copy(update={"mask_rate": mask_rate})
        batches = [self._arrange(self._batch(rows.select(mine[hand]), masking)) for hand in hands]
        if num_counted is None:
            return batches
        return [with_targets_in(batch, mine[hand] < num_counted) for batch, hand in zip(batches, hands, strict=True)]

    def _batch(self, rows: Rows, masking: Masking) -> Batch:
        """One micro-batch: [CLS] first [SEP], or [CLS] first [SEP] second [SEP], one or several times in every row."""
        pieces, row, special = rows.pieces, rows.row, self._corpus.special
        has_pairs = self._sampling.sentence_pairs != "none"
        lengths = np.stack([pieces.first_tokens, pieces.second_tokens], axis=1)[:, : 1 + has_pairs]  # [P, sentences]
        spans = self._spans(pieces)
        tokens = np.concatenate([shard.tokens[start:stop] for shard, start, stop in spans]).astype(np.int64)  # [T]
        masked_tokens, chosen = tokens, np.zeros(0, np.int64)
        if self._objective == "mlm":
            masked_tokens, chosen = mask_tokens(
                tokens,
                lengths,
                hash_of(self._seed, pieces.epoch, pieces.document, pieces.offset),
                self._sampling.num_special,
                masking,
                self._corpus,
                self._opens_word(spans, tokens),
            )

        # All places below are flat, in B * S.
        size = lengths.sum(1) + self._sampling.num_special
        row_start = np.arange(rows.num_rows) * self._sequence_length
        before = np.cumsum(size) - size
        cls = row_start[row] + before - before[np.searchsorted(row, row)]
        sentence_start = cls[:, None] + 1 + np.cumsum(lengths + 1, axis=1) - (lengths + 1)
        flat_lengths = lengths.ravel()
        place = np.arange(len(tokens)) + np.repeat(
            sentence_start.ravel() - (np.cumsum(flat_lengths) - flat_lengths), flat_lengths
        )
        num_places = rows.num_rows * self._sequence_length
        ids = np.full(num_places, special.pad)
        ids[cls] = special.cls
        ids[place] = masked_tokens
        ids[sentence_start + lengths] = special.sep

        inside = np.repeat(cls - before, size) + np.arange(size.sum())  # every place that is not padding
        number_in_row = np.arange(len(row)) - np.searchsorted(row, row)
        several = number_in_row.any()
        shape = (rows.num_rows, self._sequence_length)

        def spread(values: np.ndarray) -> torch.Tensor:
            """[B, S] the values at the places that are not padding, 0 at the others."""
            spread = np.zeros(num_places, np.int64)
            spread[inside] = values
            return torch.from_numpy(spread).view(shape)

        types = np.zeros(num_places, np.int64)
        if has_pairs:
            second = sentence_start[:, 1]
            types[place[np.repeat(np.tile([False, True], len(row)), flat_lengths)]] = 1
            types[second + lengths[:, 1]] = 1
        predicted, targets = place[chosen], tokens[chosen]
        if self._objective == "clm":
            predicted, targets = next_tokens(inside, size, ids)
        return Batch(
            ids=torch.from_numpy(ids).view(shape),
            masked_positions=torch.from_numpy(predicted),
            masked_ids=torch.from_numpy(targets),
            types=torch.from_numpy(types).view(shape) if has_pairs else None,
            positions=spread(np.arange(len(inside)) - np.repeat(before, size)) if several else None,
            segments=spread(np.repeat(number_in_row + 1, size)) if several or len(inside) < num_places else None,
            sentence_positions=torch.from_numpy(cls) if has_pairs else None,
            sentence_labels=torch.from_numpy(pieces.label) if has_pairs else None,
            causal=self._objective == "clm",
        )

    def _spans(self, pieces: Pieces) -> list[tuple[IndexedReader, int, int]]:
        """Where the sentences of all pieces are, one after the other: their shard, first token and last token + 1."""
        shards = self._split.shards
        firsts = zip(pieces.shard.tolist(), pieces.first_start.tolist(), pieces.first_tokens.tolist(), strict=True)
        spans = [(shards[shard], start, start + length) for shard, start, length in firsts]
        if self._sampling.sentence_pairs == "none":
            return spans
        seconds = zip(
            pieces.second_shard.tolist(), pieces.second_start.tolist(), pieces.second_tokens.tolist(), strict=True
        )
        others = [(shards[shard], start, start + length) for shard, start, length in seconds]
        return [span for pair in zip(spans, others, strict=True) for span in pair]

    def _opens_word(self, spans: list[tuple[IndexedReader, int, int]], tokens: np.ndarray) -> np.ndarray | None:
        """[T] bool, where shards store it; None where their tokens tell."""
        if not self._masking.whole_word or not any(shard.stores_words for shard, _, _ in spans):
            return None
        stored = [shard.opens_word(start, stop) for shard, start, stop in spans]
        ends = np.cumsum([stop - start for _, start, stop in spans])
        by_token = np.split(self._corpus.word_starts[tokens], ends[:-1])
        return np.concatenate([told if bits is None else bits for bits, told in zip(stored, by_token, strict=True)])


def with_targets_in(batch: Batch, rows: np.ndarray) -> Batch:
    """`batch` with something to predict in some of its rows alone. `rows` [B] bool."""
    if rows.all():
        return batch
    kept, length = torch.from_numpy(rows), batch.ids.shape[1]
    masked = kept[batch.masked_positions // length]
    batch = replace(batch, masked_positions=batch.masked_positions[masked], masked_ids=batch.masked_ids[masked])
    if batch.sentence_positions is None or batch.sentence_labels is None:
        return batch
    pairs = kept[batch.sentence_positions // length]
    return replace(
        batch, sentence_positions=batch.sentence_positions[pairs], sentence_labels=batch.sentence_labels[pairs]
    )


def validation_batches(
    corpus: Corpus,
    sequence_length: int,
    masking: Masking,
    num_rows: int,
    micro_batch: int,
    rank: int,
    num_ranks: int,
    sampling: Sampling = PLAIN,
    draw: int = START.draw,
    objective: Objective = "mlm",
) -> list[Batch]:
    """This rank's share of the same `num_rows` rows with the same masks, whatever the run's seed and the ranks.

    Micro-batches have at most `micro_batch` rows, and all ranks have equally many of them, of one size. Where the rows
    do not divide so, more are read, of which nothing is predicted. A smaller validation split is read again, with other
    masks.
    """
    per_rank = -(-num_rows // num_ranks)
    if num_rows == per_rank * num_ranks:
        micro = max(size for size in range(1, micro_batch + 1) if per_rank % size == 0)
    else:
        micro = -(-per_rank // -(-per_rank // micro_batch))
    num_read = -(-per_rank // micro) * micro * num_ranks
    start = DataPosition(draw=draw)
    data = TrainingData(
        corpus, "valid", _VALIDATION_SEED, sequence_length, masking, start, sampling, objective=objective
    )
    return data.next(num_read, micro, rank, num_ranks, num_counted=num_rows)


def unigram_baseline(
    corpus: Corpus,
    sequence_length: int,
    masking: Masking,
    num_rows: int,
    sampling: Sampling = PLAIN,
    draw: int = START.draw,
    objective: Objective = "mlm",
) -> tuple[float, float]:
    """Loss (nats) and accuracy, on the same validation targets, of a model that knows only token frequencies; NaN
    where no token is predicted.

    Frequencies are those of the training split (its first 100 million tokens), each token counted once more.
    """
    counts = np.ones(corpus.vocab_size)
    left = _MAX_COUNTED_TOKENS
    for shard in corpus.split("train").shards:
        counts += np.bincount(shard.tokens[:left], minlength=corpus.vocab_size)
        left = max(0, left - len(shard.tokens))
    how = masking, num_rows, num_rows, 0, 1, sampling, draw, objective
    (batch,) = validation_batches(corpus, sequence_length, *how)
    targets = batch.masked_ids.numpy()
    if not len(targets):
        return math.nan, math.nan
    loss = -np.log(counts[targets] / counts.sum()).mean()
    return float(loss), float((targets == counts.argmax()).mean())
