"""What the sequences are: which text they hold, how they are divided, and how often the second sentence is wrong."""

import numpy as np
import pytest
from pydantic import ValidationError

from pretrain.data import Corpus, Sampling
from pretrain.data.hashing import permuted
from pretrain.data.pieces import Pieces, Stretches
from pretrain.data.sampling import cut
from tests.support.corpora import made_up_documents, prepared


def pieces_of_epoch(corpus: Corpus, sampling: Sampling, length: int = 48, seed: int = 3, epoch: int = 0) -> Pieces:
    split = corpus.split("train")
    ranks = np.arange(split.num_documents)
    shard, start, tokens = split.locate(permuted(ranks, len(ranks), seed, epoch))
    return cut(split, sampling, seed, epoch, length, Stretches(ranks, shard, start, np.zeros_like(tokens), tokens))


def sentence_starts(corpus: Corpus) -> np.ndarray:
    (shard,) = corpus.split("train").shards
    return shard.sentence_starts(np.arange(shard.num_sentences))


SAMPLINGS = [
    Sampling(),
    Sampling(short_probability=0.3),
    Sampling(sentence_pairs="sop"),
    Sampling(sentence_pairs="nsp"),
    Sampling(sentence_pairs="nsp", short_probability=0.1),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_every_token_is_used_up_once_and_no_piece_is_too_long(corpus: Corpus, sampling: Sampling) -> None:
    pieces = pieces_of_epoch(corpus, sampling)
    unread = pieces.unread()
    num_documents = corpus.split("train").num_documents
    *_, lengths = corpus.split("train").locate(permuted(np.arange(num_documents), num_documents, 3, 0))
    assert np.array_equal(unread.document, np.arange(num_documents))
    assert (unread.offset == 0).all() and np.array_equal(unread.end, lengths)
    assert pieces.num_own.sum() == corpus.split("train").num_tokens
    assert (pieces.num_tokens + sampling.num_special <= 48).all() and (pieces.first_tokens > 0).all()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_pieces_depend_on_where_they_begin_alone(corpus: Corpus, sampling: Sampling) -> None:
    whole = pieces_of_epoch(corpus, sampling)
    later = whole[len(whole) // 2 :]
    unread = later.unread()
    again = cut(corpus.split("train"), sampling, 3, 0, 48, unread)
    right = np.ones(len(later), bool) if sampling.sentence_pairs != "nsp" else later.label == 0
    for name in later.__dataclass_fields__:  # a wrong second sentence is one of those that are cut with it
        chosen = right if name.startswith("second_") else np.ones_like(right)
        assert np.array_equal(getattr(later, name)[chosen], getattr(again, name)[chosen]), name


def test_without_pairs_pieces_are_as_long_as_they_can_be(corpus: Corpus) -> None:
    pieces = pieces_of_epoch(corpus, Sampling())
    last_of_document = np.append(pieces.document[1:] != pieces.document[:-1], True)
    assert (pieces.num_own[~last_of_document] == 46).all()


def test_short_sequences_are_as_frequent_as_asked(tmp_path) -> None:
    corpus = prepared(tmp_path, made_up_documents(40, longest=400))
    pieces = pieces_of_epoch(corpus, Sampling(short_probability=0.3))
    inner = pieces[np.append(pieces.document[1:] == pieces.document[:-1], False)]
    # A short target is uniform on 2..46, so one in 45 of them is not short at all.
    expected, found = 0.3 * 44 / 45, (inner.num_own < 46).mean()
    assert abs(found - expected) < 3 * np.sqrt(expected * (1 - expected) / len(inner))
    short = inner.num_own[inner.num_own < 46]
    assert abs(short.mean() - np.arange(2, 46).mean()) < 4 * 12.7 / np.sqrt(len(short))


@pytest.mark.parametrize("kind", ["nsp", "sop"])
def test_half_of_the_pairs_are_wrong(corpus: Corpus, kind: str) -> None:
    pieces = Pieces.concatenate([pieces_of_epoch(corpus, Sampling(sentence_pairs=kind), seed=s) for s in range(8)])
    pieces = pieces[pieces.num_tokens > 1]
    # The coin is thrown only where there is a choice; pieces of one token of their own are always replaced (nsp).
    assert abs(pieces.label.mean() - 0.5) < 3 * 0.5 / np.sqrt(len(pieces)) + (kind == "nsp") * 0.005


def test_true_pairs_follow_each_other_and_begin_at_sentences(corpus: Corpus) -> None:
    split = corpus.split("train")
    pieces = pieces_of_epoch(corpus, Sampling(sentence_pairs="nsp"))
    true = pieces[pieces.label == 0]
    assert np.array_equal(true.second_start, true.first_start + true.first_tokens)
    assert np.array_equal(true.num_own, true.num_tokens)
    starts = split.sentence_starts(np.zeros(1000, np.int64), np.arange(1000))
    has_inner_end = np.searchsorted(starts, true.first_start + true.num_own) > np.searchsorted(
        starts, true.first_start + 1
    )
    considered = has_inner_end & (true.first_start + true.num_own < starts[-1])
    assert considered.sum() > 100 and np.isin(true.second_start[considered], starts).all()


def test_wrong_second_sentences_come_from_other_documents(corpus: Corpus) -> None:
    split = corpus.split("train")
    pieces = pieces_of_epoch(corpus, Sampling(sentence_pairs="nsp"))
    wrong = pieces[pieces.label == 1]
    _, start, lengths = split.locate(np.arange(split.num_documents))
    document_of = np.searchsorted(start, wrong.second_start, side="right") - 1
    own = np.searchsorted(start, wrong.document_start, side="right") - 1
    assert (document_of != own).all() and len(np.unique(document_of)) > 30
    assert (wrong.second_start + wrong.second_tokens <= (start + lengths)[document_of]).all()
    assert np.isin(wrong.second_start, sentence_starts(corpus)).mean() > 0.8
    assert np.array_equal(wrong.num_own, wrong.first_tokens)


def test_swapped_sentences_are_the_two_halves_of_one_piece(corpus: Corpus) -> None:
    pieces = pieces_of_epoch(corpus, Sampling(sentence_pairs="sop"))
    wrong = pieces[pieces.label == 1]
    assert np.array_equal(wrong.first_start, wrong.second_start + wrong.second_tokens)
    assert np.array_equal(wrong.second_start, wrong.document_start + wrong.offset)


@pytest.mark.parametrize("wrong", [{"sentence_pairs": "both"}, {"short_probability": 2}], ids=str)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Sampling(**wrong)
