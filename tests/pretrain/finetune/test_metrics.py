"""The metrics equal scikit-learn's, scipy's and, for SQuAD, hand-worked cases of the official scripts' rules."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pretrain.finetune.metrics import accuracy, f1, macro_f1, matthews, pearson, r2, spearman
from pretrain.finetune.squad import Question, evaluate, normalize, overlap_f1

classes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
scores = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 10)), min_size=3, max_size=40)


@given(classes)
@settings(deadline=None, max_examples=60)
@pytest.mark.filterwarnings("ignore:A single label")
def test_classification_metrics_equal_scikit_learn(pairs):
    predicted, true = np.array(pairs).T
    assert accuracy(predicted, true) == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    assert f1(predicted, true) == pytest.approx(sklearn.metrics.f1_score(true, predicted, zero_division=0))
    assert matthews(predicted, true) == pytest.approx(sklearn.metrics.matthews_corrcoef(true, predicted), abs=1e-12)
    macro = sklearn.metrics.f1_score(true, predicted, average="macro", zero_division=0)
    assert macro_f1(predicted, true) == pytest.approx(macro)


@given(scores)
@settings(deadline=None, max_examples=60)
def test_correlations_equal_scipy_ties_included(pairs):
    predicted, true = np.array(pairs, float).T / 2
    assume(len(set(predicted)) > 1 and len(set(true)) > 1)
    assert pearson(predicted, true) == pytest.approx(scipy.stats.pearsonr(predicted, true).statistic, abs=1e-9)
    assert r2(predicted, true) == pytest.approx(sklearn.metrics.r2_score(true, predicted))
    assert spearman(predicted, true) == pytest.approx(scipy.stats.spearmanr(predicted, true).statistic, abs=1e-9)


def test_constant_predictions_correlate_with_nothing():
    assert pearson(np.zeros(4), np.arange(4.0)) == 0
    assert matthews(np.zeros(4, int), np.array([0, 1, 1, 0])) == 0


@pytest.mark.parametrize(
    ("answer", "true", "exact", "f1_expected"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1.0),
        ("in the city of Paris", "Paris, France", 0, 1 / 3),  # in city of paris | paris france: 2 * 1 / (4 + 2)
        ("a an the", "", 1, 0.0),  # both empty once normalised: no word in common
        ("Paris", "", 0, 0.0),
        ("", "Paris", 0, 0.0),
        ("to be to be", "to be", 0, 2 / 3),  # words count as often as they stand: 2 * 2 / (4 + 2)
        ("10-20", "1020", 1, 1.0),  # punctuation goes without a blank
        ("theatre of the absurd", "theatre absurd", 0, 4 / 5),
    ],
)
def test_squad_answers(answer, true, exact, f1_expected):
    assert (normalize(answer) == normalize(true)) == exact
    assert overlap_f1(normalize(answer), normalize(true)) == pytest.approx(f1_expected)


def test_squad_takes_the_best_annotator_and_counts_missing_answers():
    questions = [
        Question("1", "", "", ("the red house", "house"), 0),
        Question("2", "", "", ("blue",), 0),
        Question("3", "", "", (), 0),
        Question("4", "", "", (), 0),
    ]
    answers = {"1": "House", "3": "", "4": "green"}
    assert evaluate(questions, answers) == {"exact_match": 50.0, "f1": 50.0}
    assert evaluate(questions[:1], {"1": "red house on a hill"})["f1"] == pytest.approx(100 * 2 * 2 / (4 + 2))


def test_saying_nothing_is_an_answer_where_questions_may_have_none():
    """As in the script of SQuAD 2.0; that of 1.1 takes an article for an answer without words."""
    article, none = Question("1", "", "", ("The", "house"), 0), Question("2", "", "", (), 0)
    assert evaluate([article], {"1": ""}) == {"exact_match": 100.0, "f1": 0.0}
    assert evaluate([article, none], {"1": "", "2": "!"}) == {"exact_match": 50.0, "f1": 50.0}
