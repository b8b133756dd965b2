"""megatron-core's BERT dataset on the same shards: the same distributions, and a tenth of the speed at most."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data import Corpus, Masking, Sampling, TrainingData
from pretrain.data.hashing import hash_of
from pretrain.data.masking import mask_tokens
from tests.support.corpora import made_up_documents, prepared
from tests.support.megatron import LENGTH, megatron_dataset

SAMPLING = Sampling(sentence_pairs="nsp")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("corpus"), made_up_documents(600))


def summary(corpus: Corpus, true: np.ndarray, shown: np.ndarray, chosen: np.ndarray) -> dict[str, tuple[float, int]]:
    """Shares of the chosen tokens of one piece after the other, each with the number of tokens it is taken from."""
    words = np.cumsum(corpus.word_starts[true])
    size = np.bincount(words)[words[chosen]]
    count = len(chosen)
    shares = {
        "masked": (shown[chosen] == corpus.special.mask).mean(),
        "kept": (shown[chosen] == true[chosen]).mean(),
        "begins a word": corpus.word_starts[true[chosen]].mean(),
        **{f"in a word of {n}": (size == n).mean() for n in range(1, 6)},
    }
    return {name: (float(share), count) for name, share in shares.items()}


@pytest.mark.parametrize("whole_word", [False, True])
def test_masks_are_equal_in_distribution(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_word: bool
) -> None:
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    theirs = megatron_dataset(corpus, tmp_path, whole_word)
    true, shown, chosen, lengths = [], [], [], []
    offset = 0
    for number in range(min(len(theirs), 1500)):
        sample = theirs[number]
        labels, masked = sample["labels"], sample["loss_mask"].astype(bool)
        text = np.where(masked, labels, sample["text"])
        inside = (sample["padding_mask"] > 0) & ~np.isin(text, [corpus.special.cls, corpus.special.sep])
        first = int((inside & (sample["types"] == 0)).sum())
        true.append(text[inside])
        shown.append(sample["text"][inside])
        chosen.append(offset + np.flatnonzero(masked[inside]))
        lengths.append((first, int(inside.sum()) - first))
        offset += int(inside.sum())
    true, shown, their_chosen = np.concatenate(true), np.concatenate(shown), np.concatenate(chosen)

    # Our masking of the very same pairs.
    lengths = np.array(lengths)
    our_shown, our_chosen = mask_tokens(
        true, lengths, hash_of(9, np.arange(len(lengths))), 3, Masking(whole_word=whole_word), corpus
    )
    # They stop at 0.15 x the room for text, a fraction of a token before BERT's rounding.
    assert 0 <= (len(our_chosen) - len(their_chosen)) / len(lengths) < 1
    assert abs(len(our_chosen) - len(their_chosen)) / len(true) < 0.008

    ours, their = summary(corpus, true, our_shown, our_chosen), summary(corpus, true, shown, their_chosen)
    for name, (share, count) in ours.items():
        their_share, their_count = their[name]
        mean = (share * count + their_share * their_count) / (count + their_count)
        sigma = np.sqrt(mean * (1 - mean) * (1 / count + 1 / their_count))
        # Words are drawn, not tokens: the effective number of draws is smaller by the tokens of a word.
        assert abs(share - their_share) < 4 * sigma * (2 if whole_word else 1) + 0.002, (name, share, their_share)

    starts = np.repeat(np.cumsum(lengths.sum(1)) - lengths.sum(1), lengths.sum(1))
    place = (np.arange(len(true)) - starts) / np.repeat(lengths.sum(1), lengths.sum(1))
    for which in (our_chosen, their_chosen):
        counts, _ = np.histogram(place[which], bins=10, range=(0, 1))
        everywhere, _ = np.histogram(place, bins=10, range=(0, 1))
        expected = everywhere * len(which) / len(true)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())


def test_ten_times_their_samples_per_second(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    theirs = megatron_dataset(corpus, tmp_path, whole_word=True)
    ours = TrainingData(corpus, "train", 0, LENGTH, Masking(whole_word=True), sampling=SAMPLING)
    their_seconds = our_seconds = 0.0
    num_samples = 640
    for first in range(0, num_samples, 32):
        started = time.process_time()
        for number in range(first, first + 32):
            theirs[number % len(theirs)]
        between = time.process_time()
        ours.next(32, 32, 0, 1)
        their_seconds += between - started
        our_seconds += time.process_time() - between
    assert their_seconds > 10 * our_seconds, (num_samples / their_seconds, num_samples / our_seconds)
