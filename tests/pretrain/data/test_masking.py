import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pretrain.data import Corpus, Masking
from pretrain.data.hashing import hash_of
from pretrain.data.masking import mask_tokens


def masked(corpus: Corpus, lengths: list[int], masking: Masking, seed: int = 0):
    """Random tokens (special ones among them) in pieces of `lengths`, masked: tokens, result, chosen."""
    tokens = np.random.default_rng(seed).integers(0, corpus.vocab_size, sum(lengths))
    keys = hash_of(seed, np.arange(len(lengths)))
    return tokens, *mask_tokens(tokens, np.array(lengths)[:, None], keys, 2, masking, corpus)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.floats(0.01, 0.9), st.booleans(), st.integers(0, 1000))
def test_budget_words_and_special_tokens(
    corpus: Corpus, lengths: list[int], rate: float, whole_word: bool, seed: int
) -> None:
    tokens, result, chosen = masked(corpus, lengths, Masking(mask_rate=rate, whole_word=whole_word), seed)
    is_chosen = np.isin(np.arange(len(tokens)), chosen)
    assert not corpus.is_special[tokens[chosen]].any()
    assert np.array_equal(result[~is_chosen], tokens[~is_chosen])
    for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        here = slice(start, start + length)
        budget, maskable = max(1, round(rate * (length + 2))), ~corpus.is_special[tokens[here]]
        if not whole_word:
            assert is_chosen[here].sum() == min(budget, maskable.sum())
            continue
        assert is_chosen[here].sum() <= budget
        opens = corpus.word_starts[tokens[here]] | ~maskable
        opens[0] = True
        words = np.split(is_chosen[here], np.flatnonzero(opens)[1:])
        assert all(word.all() or not word.any() for word in words)
        whole_and_maskable = [
            len(word)
            for word, ok in zip(words, np.split(maskable, np.flatnonzero(opens)[1:]), strict=True)
            if ok.all() and not word.any()
        ]  # no word that still fits is omitted
        assert all(size > budget - is_chosen[here].sum() for size in whole_and_maskable)


@pytest.mark.parametrize("whole_word", [False, True])
def test_shares_are_within_three_sigma(corpus: Corpus, whole_word: bool) -> None:
    tokens, result, chosen = masked(corpus, [126] * 2000, Masking(whole_word=whole_word))
    num_ordinary = len(corpus.ordinary_ids)
    to_mask = (result[chosen] == corpus.special.mask).mean()
    kept = (result[chosen] == tokens[chosen]).mean()
    for share, expected in ((to_mask, 0.8), (kept, 0.1 + 0.1 / num_ordinary)):
        assert abs(share - expected) < 3 * np.sqrt(expected * (1 - expected) / len(chosen))
    replaced = result[chosen][(result[chosen] != corpus.special.mask) & (result[chosen] != tokens[chosen])]
    assert not corpus.is_special[replaced].any() and len(np.unique(replaced)) == num_ordinary


def test_every_place_is_as_likely_as_any_other(corpus: Corpus) -> None:
    tokens = np.full(60 * 5000, corpus.ordinary_ids[0])
    keys = hash_of(1, np.arange(5000))
    _, chosen = mask_tokens(tokens, np.full((5000, 1), 60), keys, 2, Masking(), corpus)
    counts = np.bincount(chosen % 60, minlength=60)
    expected = len(chosen) / 60
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected)


def test_masks_depend_on_the_key_alone(corpus: Corpus) -> None:
    tokens = np.tile(corpus.ordinary_ids[:40], 3)
    keys = hash_of(np.array([5, 6, 5]))
    result, _ = mask_tokens(tokens, np.full((3, 1), 40), keys, 2, Masking(), corpus)
    first, second, third = result.reshape(3, 40)
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    alone, _ = mask_tokens(tokens[:40], np.array([[40]]), keys[1:2], 2, Masking(), corpus)
    assert np.array_equal(alone, second)


@pytest.mark.parametrize("span_lengths", ["inverse", "geometric"])
def test_spans_have_the_lengths_asked_for(corpus: Corpus, span_lengths: str) -> None:
    # One word a token, and a rate so low that neighbouring spans hardly ever touch.
    masking = Masking(mask_rate=0.02, max_span=4, span_lengths=span_lengths)
    tokens = np.full(300 * 5000, corpus.ordinary_ids[0])
    _, chosen = mask_tokens(tokens, np.full((300, 1), 5000), hash_of(np.arange(300)), 0, masking, corpus)
    spans = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
    counts = np.bincount([len(span) for span in spans], minlength=5)[1:5]
    assert counts.sum() > 0.97 * len(spans)
    # Two spans touch now and then, and the last of a budget may not be long: the shares hold nearly.
    assert np.allclose(counts / counts.sum(), masking.span_shares(), atol=0.03)
    assert np.abs(np.bincount(chosen % 5000 // 10, minlength=500) / 3000 - 0.02).max() < 6 * np.sqrt(2 * 0.02 / 3000)


def test_spans_stay_inside_their_sentence(corpus: Corpus) -> None:
    tokens = np.full(400 * 8, corpus.ordinary_ids[0])
    keys = hash_of(np.arange(400))
    _, chosen = mask_tokens(tokens, np.full((400, 2), 4), keys, 3, Masking(mask_rate=0.4, max_span=4), corpus)
    is_chosen = np.isin(np.arange(len(tokens)), chosen).reshape(400, 8)
    # Were spans laid across, a budget of 4 would now and then be filled by tokens 2..5 alone.
    whole_sentence = is_chosen[:, :4].all(1) | is_chosen[:, 4:].all(1)
    across = is_chosen[:, 2:6].all(1)
    assert whole_sentence.sum() > 10 and across.sum() < whole_sentence.sum()


@pytest.mark.parametrize(
    "wrong", [{"mask_rate": 0}, {"mask_rate": 1.5}, {"max_span": 0}, {"span_lengths": "x"}], ids=str
)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Masking(**wrong)
