import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.errors import UserError
from model.variants.parts import arrange_for
from pretrain.data import Corpus, DataPosition, Masking, Sampling, TrainingData, unigram_baseline, validation_batches
from pretrain.data.index import RowIndex
from pretrain.data.objective import Objective
from tests.support.running import build, small_config

LENGTH = 32
START = DataPosition()


def training_data(corpus: Corpus, start: DataPosition = START, length: int = LENGTH) -> TrainingData:
    return TrainingData(corpus, "train", seed=5, sequence_length=length, masking=Masking(), start=start)


def unmasked(batch) -> torch.Tensor:
    """[B, S] the ids before masking."""
    return batch.ids.flatten().index_put((batch.masked_positions,), batch.masked_ids).view_as(batch.ids)


def num_rows_of_an_epoch(corpus: Corpus, length: int = LENGTH) -> int:
    split = corpus.split("train")
    *_, lengths = split.locate(np.arange(split.num_documents))
    return sum(math.ceil(n / (length - 2)) for n in lengths)


def test_a_row_is_framed_padded_and_masked(corpus: Corpus) -> None:
    (batch,) = training_data(corpus).next(64, 64, 0, 1)
    ids, special = unmasked(batch), corpus.special
    for row, segments in zip(ids, batch.segments, strict=True):
        length = int(segments.sum())
        assert row[0] == special.cls and row[length - 1] == special.sep and (row[length:] == special.pad).all()
        assert not np.isin(row[1 : length - 1], [special.pad, special.cls, special.sep, special.mask]).any()
        assert torch.equal(segments, (torch.arange(LENGTH) < length).long())
    assert batch.num_tokens == batch.segments.sum() and batch.ids.dtype == torch.int64
    assert (batch.masked_positions.diff() > 0).all()


def test_an_epoch_holds_every_token_of_every_document_once(corpus: Corpus) -> None:
    data, split = training_data(corpus), corpus.split("train")
    num_rows = num_rows_of_an_epoch(corpus)
    (batch,) = data.next(num_rows, num_rows, 0, 1)
    assert data.position == DataPosition(epoch=1)
    special = torch.tensor([corpus.special.pad, corpus.special.cls, corpus.special.sep])
    tokens = unmasked(batch).flatten()
    counts = torch.bincount(tokens[~torch.isin(tokens, special)], minlength=corpus.vocab_size)
    assert np.array_equal(counts, np.bincount(split.shards[0].tokens, minlength=corpus.vocab_size))


def test_epochs_differ_in_order_and_masks_and_roll_over_inside_a_batch(corpus: Corpus) -> None:
    num_rows = num_rows_of_an_epoch(corpus)
    whole = training_data(corpus).next(num_rows + 20, num_rows + 20, 0, 1)[0]
    second = training_data(corpus, DataPosition(epoch=1)).next(20, 20, 0, 1)[0]
    assert torch.equal(whole.ids[-20:], second.ids)
    assert not torch.equal(whole.ids[:20], second.ids)


@pytest.mark.parametrize("num_batches", [0, 1, 3, 40])
def test_resuming_gives_the_rest_of_the_uninterrupted_run(corpus: Corpus, num_batches: int) -> None:
    data = training_data(corpus)
    for _ in range(num_batches):
        data.next(24, 24, 0, 1)
    resumed = training_data(corpus, DataPosition(**json.loads(json.dumps(asdict(data.position)))))
    for _ in range(60):
        (expected,), (found,) = data.next(24, 24, 0, 1), resumed.next(24, 24, 0, 1)
        assert torch.equal(expected.ids, found.ids) and torch.equal(expected.masked_positions, found.masked_positions)
    assert data.position == resumed.position and data.position.epoch > 0


@pytest.mark.parametrize(("micro_batch", "num_ranks"), [(24, 1), (4, 2), (2, 3), (1, 8)])
def test_all_ranks_together_see_the_same_rows(corpus: Corpus, micro_batch: int, num_ranks: int) -> None:
    (whole,) = training_data(corpus).next(24, 24, 0, 1)
    rows, num_masked = set(), 0
    for rank in range(num_ranks):
        batches = training_data(corpus).next(24, micro_batch, rank, num_ranks)
        assert [tuple(batch.ids.shape) for batch in batches] == [(micro_batch, LENGTH)] * (
            24 // micro_batch // num_ranks
        )
        rows |= {tuple(row.tolist()) for batch in batches for row in batch.ids}
        num_masked += sum(len(batch.masked_ids) for batch in batches)
    assert rows == {tuple(row.tolist()) for row in whole.ids} and num_masked == len(whole.masked_ids)


def test_another_length_goes_on_where_the_last_one_stopped(corpus: Corpus) -> None:
    short = training_data(corpus, length=16)
    (first,) = short.next(100, 100, 0, 1)
    long = training_data(corpus, short.position, length=64)
    tokens = [unmasked(first).flatten()]
    while long.position.epoch == 0:
        tokens.append(unmasked(long.next(1, 1, 0, 1)[0]).flatten())
    special = torch.tensor([corpus.special.pad, corpus.special.cls, corpus.special.sep])
    seen = torch.cat(tokens)
    counts = torch.bincount(seen[~torch.isin(seen, special)], minlength=corpus.vocab_size)
    assert np.array_equal(counts, np.bincount(corpus.split("train").shards[0].tokens, minlength=corpus.vocab_size))


def test_validation_rows_are_fixed_and_shared(corpus: Corpus) -> None:
    (whole,) = validation_batches(corpus, LENGTH, Masking(), 32, 32, 0, 1)
    parts = [b.ids for rank in range(2) for b in validation_batches(corpus, LENGTH, Masking(), 32, 4, rank, 2)]
    assert {tuple(r) for r in torch.cat(parts).tolist()} == {tuple(r) for r in whole.ids.tolist()}


@pytest.mark.parametrize("pairs", ["none", "sop"])
@pytest.mark.parametrize(("num_rows", "num_ranks", "micro_batch"), [(20, 3, 4), (1, 3, 8), (32, 5, 32), (9, 2, 64)])
def test_each_validation_row_counts_once_on_any_number_of_ranks(
    corpus: Corpus, num_rows: int, num_ranks: int, micro_batch: int, pairs: str
) -> None:
    """Ranks have equally many micro-batches, because a forward pass may be collective."""
    sampling = Sampling(sentence_pairs=pairs)

    def targets(batches: list[Batch]) -> tuple[list[int], int]:
        ids = torch.cat([batch.masked_ids for batch in batches]).tolist()
        return sorted(ids), sum(0 if batch.sentence_labels is None else len(batch.sentence_labels) for batch in batches)

    ranks = [
        validation_batches(corpus, LENGTH, Masking(), num_rows, micro_batch, rank, num_ranks, sampling)
        for rank in range(num_ranks)
    ]
    assert len({tuple(batch.ids.shape for batch in batches) for batches in ranks}) == 1
    assert all(len(batch.ids) <= micro_batch for batches in ranks for batch in batches)
    alone = validation_batches(corpus, LENGTH, Masking(), num_rows, num_rows, 0, 1, sampling)
    assert targets([batch for batches in ranks for batch in batches]) == targets(alone)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_unigram_baseline_is_the_cross_entropy_of_the_token_frequencies(corpus: Corpus, objective: Objective) -> None:
    loss, accuracy = unigram_baseline(corpus, LENGTH, Masking(), 64, objective=objective)
    (batch,) = validation_batches(corpus, LENGTH, Masking(), 64, 64, 0, 1, objective=objective)
    counts = torch.bincount(
        torch.from_numpy(corpus.split("train").shards[0].tokens.astype(np.int64)), minlength=corpus.vocab_size
    )
    logits = (counts + 1).log().expand(len(batch.masked_ids), -1)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits.double(), batch.masked_ids).item(), rel=1e-6)
    assert accuracy == pytest.approx((batch.masked_ids == counts.argmax()).double().mean().item())


def test_a_length_without_room_for_text_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="too short"):
        training_data(corpus, length=3)


@pytest.mark.parametrize("sentence_pairs", ["none", "nsp", "sop"])
@pytest.mark.parametrize("pack", [False, True])
def test_rows_read_back_as_the_sequences_they_are_made_of(corpus: Corpus, pack: bool, sentence_pairs: str) -> None:
    sampling = Sampling(pack=pack, sentence_pairs=sentence_pairs, short_probability=0.2)
    data = TrainingData(corpus, "train", 5, LENGTH, Masking(), sampling=sampling)
    (batch,) = data.next(64, 64, 0, 1)
    rows = RowIndex(corpus.split("train"), sampling, 5, LENGTH, START).take(64)
    p, tokens, special = rows.pieces, corpus.split("train").shards[0].tokens.astype(int).tolist(), corpus.special
    order, found, labels = [], [], []
    for row, segments in enumerate(batch.segments):
        for segment in range(1, int(segments.max()) + 1):
            here = segments == segment
            found.append(unmasked(batch)[row][here].tolist())
            if pack:
                assert batch.positions[row][here].tolist() == list(range(int(here.sum())))
            if sentence_pairs != "none":
                types = batch.types[row][here].tolist()
                end_of_first = found[-1].index(special.sep)
                assert types == [0] * (end_of_first + 1) + [1] * (len(types) - end_of_first - 1)
                labels.append(int(batch.sentence_labels[len(labels)]))
                assert batch.sentence_positions[len(labels) - 1] == row * LENGTH + int(here.nonzero()[0])
    for i in range(len(p)):
        first = tokens[p.first_start[i] : p.first_start[i] + p.first_tokens[i]]
        second = tokens[p.second_start[i] : p.second_start[i] + p.second_tokens[i]]
        pair = [*second, special.sep] if sentence_pairs != "none" else []
        order.append([special.cls, *first, special.sep, *pair])
    # A batch deals the rows again, so compare as sets; labels travel with their sequences.
    assert sorted(found) == sorted(order)
    if sentence_pairs != "none":
        expected = sorted(zip(order, p.label.tolist(), strict=True))
        assert sorted(zip(found, labels, strict=True)) == expected
    assert batch.num_tokens == sum(map(len, order)) and (pack or batch.positions is None)


def test_packing_masks_the_same_tokens_as_padding(corpus: Corpus) -> None:
    def targets(pack: bool) -> list[tuple[int, int]]:
        data = TrainingData(corpus, "train", 5, LENGTH, Masking(whole_word=True), sampling=Sampling(pack=pack))
        masked = []
        while data.position.epoch == 0:
            (batch,) = data.next(1, 1, 0, 1)
            masked += zip(batch.masked_ids.tolist(), batch.ids.flatten()[batch.masked_positions].tolist(), strict=True)
        return sorted(masked)

    assert targets(True) == targets(False)


def test_ranks_get_equal_tokens(corpus: Corpus) -> None:
    sampling = Sampling(short_probability=0.9)  # lengths all over the place
    per_rank = []
    for rank in range(4):
        data = TrainingData(corpus, "train", 5, 64, Masking(), sampling=sampling)
        per_rank.append([sum(b.num_tokens for b in data.next(128, 8, rank, 4)) for _ in range(5)])
    steps = np.array(per_rank)
    assert (steps.max(0) / steps.min(0)).max() < 1.02


def test_the_loss_of_an_epoch_is_the_same_packed_and_padded(corpus: Corpus) -> None:
    config = small_config(vocab_size=corpus.vocab_size, max_positions=LENGTH, sentence_head=True)
    model = build(config)

    def losses(pack: bool) -> tuple[float, float]:
        data = TrainingData(corpus, "valid", 5, LENGTH, Masking(), sampling=Sampling(pack=pack, sentence_pairs="nsp"))
        outputs = []
        with torch.no_grad():
            while data.position.epoch == 0:
                (batch,) = data.next(1, 1, 0, 1)
                outputs.append(model(batch))
        return sum(o.mlm_loss.item() for o in outputs), sum(o.sentence_loss.item() for o in outputs)

    assert losses(pack=True) == pytest.approx(losses(pack=False), rel=1e-12)


@pytest.mark.parametrize("pack", [False, True])
def test_resuming_with_other_ranks_and_another_length_sees_the_rest(corpus: Corpus, pack: bool) -> None:
    """Two stages of 72 rows a step, resumed at every step on 1, 2 or 3 ranks, also in epoch 2."""
    sampling = Sampling(pack=pack, sentence_pairs="nsp")

    def stage(position: DataPosition, length: int) -> TrainingData:
        return TrainingData(corpus, "train", 5, length, Masking(), position, sampling)

    def step(position: DataPosition, length: int, num_ranks: int) -> tuple[list, DataPosition]:
        """The rows of one step, however many ranks read it, and where it ends."""
        rows, ends = [], set()
        for rank in range(num_ranks):
            data = stage(position, length)
            rows += [row for batch in data.next(72, 4, rank, num_ranks) for row in batch.ids.tolist()]
            ends.add(data.position)
        (end,) = ends
        return sorted(rows), end

    num_first = 10
    position, uninterrupted = START, stage(START, LENGTH)
    for number in range(30):
        length = LENGTH if number < num_first else 2 * LENGTH
        if number == num_first:
            assert position == uninterrupted.position and position.epoch == 0 and position.taken
            uninterrupted = stage(uninterrupted.position, length)
        expected = sorted(row for batch in uninterrupted.next(72, 72, 0, 1) for row in batch.ids.tolist())
        found, position = step(DataPosition(**json.loads(json.dumps(asdict(position)))), length, 1 + number % 3)
        assert found == expected, number
    assert position.epoch >= 1


def test_pooled_input_carries_its_targets_apart(corpus):
    """The same rows, in the sample format of pooled input: as many tokens and targets, in fewer slots."""
    shapes = small_config(), small_config(pool_window=2)
    plain, pooled = (
        TrainingData(corpus, "train", 5, LENGTH, Masking(), arrange=arrange_for(shape)).next(8, 8, 0, 1)[0]
        for shape in shapes
    )
    assert plain.slots is None
    assert torch.equal(pooled.masked_ids.sort().values, plain.masked_ids.sort().values)
    assert pooled.num_tokens == plain.num_tokens
    assert pooled.slot_segments.shape[1] < plain.ids.shape[1]
