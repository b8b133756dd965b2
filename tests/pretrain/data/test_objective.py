"""Rows of `clm`: every token from those before it; and mask rates that change from step to step."""

import numpy as np
import pytest
import torch

from model.batch import Batch
from pretrain.data import Corpus, Masking, Sampling
from pretrain.data.ahead import ReadingProcess, RowsAhead, Share, StageRows
from pretrain.data.batches import START, TrainingData
from pretrain.data.objective import MaskRate


def rows(corpus: Corpus, pack: bool, objective: str = "clm") -> Batch:
    data = TrainingData(corpus, "train", 5, 48, Masking(), START, Sampling(pack=pack), objective=objective)
    return data.next(16, 16, 0, 1)[0]


@pytest.mark.parametrize("pack", [False, True])
def test_each_token_of_a_segment_but_the_first_is_predicted_where_the_one_before_it_is(corpus: Corpus, pack: bool):
    batch, masked = rows(corpus, pack), rows(corpus, pack, "mlm")
    assert batch.causal and not masked.causal
    segments = torch.ones_like(batch.ids) if batch.segments is None else batch.segments
    same_segment = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    follows = torch.nn.functional.pad(same_segment, (0, 1)).flatten().nonzero().squeeze(1)
    assert torch.equal(batch.masked_positions.sort().values, follows)
    assert torch.equal(batch.masked_ids, batch.ids.flatten()[batch.masked_positions + 1])
    assert batch.num_tokens - len(follows) == int((batch.ids == corpus.special.cls).sum())
    assert not (batch.ids == corpus.special.mask).any()
    truth = masked.ids.flatten().clone()
    truth[masked.masked_positions] = masked.masked_ids
    assert torch.equal(truth, batch.ids.flatten())  # the same text, whatever the objective


def test_a_rate_falls_evenly_and_is_met(corpus: Corpus) -> None:
    rate = MaskRate(0.4, 0.1)
    rates = [rate.at(step, 10, 14) for step in range(10, 14)]
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1]) and rate.mean == pytest.approx(np.mean(rates))
    assert MaskRate(0.4, 0.1).at(10, 10, 11) == 0.4
    data = TrainingData(corpus, "train", 5, 48, Masking(), sampling=Sampling(pack=True))
    shares = [
        len(batch.masked_ids) / batch.num_tokens for each in rates for batch in data.next(64, 64, 0, 1, mask_rate=each)
    ]
    assert shares == pytest.approx(rates, abs=0.02)


def values(batches: list[Batch]) -> list[dict[str, list]]:
    return [{name: tensor.tolist() for name, tensor in batch.tensors().items()} for batch in batches]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_rows_read_ahead_and_from_a_position_are_the_same(corpus: Corpus, objective: str) -> None:
    how = StageRows(5, 48, Masking(), Sampling(pack=True), objective)
    plain, process = how.open(corpus, START), ReadingProcess(corpus.files)
    try:
        ahead = RowsAhead(process, how, START)
        for rate in (0.3, 0.2, 0.1):
            again = how.open(corpus, plain.position)
            expected = plain.next(8, 4, 0, 1, mask_rate=rate)
            found = ahead.next(8, 4, 0, 1, mask_rate=rate)
            assert values(found) == values(expected) == values(again.next(8, 4, 0, 1, mask_rate=rate))
            assert [batch.causal for batch in found] == [objective == "clm"] * 2
            ahead.ask(Share(8, 4, 0, 1, rate - 0.1 + 1e-9))
    finally:
        process.close()
