"""Wrong second sentences: that nothing but their text tells them from right ones."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

from model.errors import UserError
from pretrain.checkpoint.progress import Progress
from pretrain.data import Corpus, DataPosition, Masking, Sampling, TrainingData
from pretrain.data.corpus import Split
from pretrain.data.hashing import permuted
from pretrain.data.negatives import ANYWHERE, EXCHANGED
from pretrain.data.pieces import Pieces, Stretches
from pretrain.data.sampling import cut
from pretrain.data.text.worker import text_hash
from tests.support.corpora import made_up_documents, prepared

EARLIER = Path(__file__).parent.parent.parent / "whole" / "earlier_run" / "corpus"
LENGTH = 48


def pieces_of(
    split: Split, draw: int = EXCHANGED, length: int = LENGTH, seed: int = 3, epoch: int = 0, **how
) -> Pieces:
    ranks = np.arange(split.num_documents)
    shard, start, tokens = split.locate(permuted(ranks, len(ranks), seed, epoch), epoch)
    stretches = Stretches(ranks, shard, start, np.zeros_like(tokens), tokens)
    return cut(split, Sampling(sentence_pairs="nsp", **how), seed, epoch, length, stretches, draw)


def what_can_be_seen(split: Split, pieces: Pieces) -> np.ndarray:
    """[P, 6] of each piece: what of its places and lengths may be told without understanding it."""
    (shard,) = split.shards
    sentences = shard.sentence_starts(np.arange(shard.num_sentences + 1))
    opens = sentences[shard.document_sentences]
    begin, end = pieces.second_start, pieces.second_start + pieces.second_tokens
    document = opens[np.searchsorted(opens, begin, side="right") - 1]
    return np.stack(
        [
            begin == document,
            np.isin(begin, sentences),
            np.isin(end, sentences),
            np.isin(end, opens),
            pieces.first_tokens,
            pieces.num_tokens,
        ],
        axis=1,
    )


def share_told_apart(corpus: Corpus, draw: int, **how) -> float:
    """How many pairs a small tree gets right that looks at places and lengths alone; half of them by chance."""
    split = corpus.split("train")
    pieces = Pieces.concatenate([pieces_of(split, draw, seed=seed, **how) for seed in range(3)])
    pieces = pieces[pieces.first_tokens > 1]  # a piece of one token cannot but be wrong, as in BERT
    tree = DecisionTreeClassifier(max_depth=5, min_samples_leaf=25, class_weight="balanced", random_state=0)
    seen = what_can_be_seen(split, pieces)
    return float(cross_val_score(tree, seen, pieces.label, cv=4, scoring="balanced_accuracy").mean())


def one_sentence_each(num_documents: int) -> list[str]:
    return [document.split(".")[0] + "." for document in made_up_documents(num_documents, seed=1)]


TEXTS = {
    "one sentence": one_sentence_each(400),
    "short": made_up_documents(300, seed=2, longest=4),
    "long": made_up_documents(80, seed=3, longest=60),
    "without a mark": [document.replace(".", "") for document in made_up_documents(200, seed=4, longest=8)],
}


@pytest.fixture(scope="module", params=TEXTS)
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("text"), TEXTS[request.param])


def test_places_and_lengths_do_not_tell_them(text: Corpus) -> None:
    assert share_told_apart(text, EXCHANGED) < 0.56
    assert share_told_apart(text, ANYWHERE) > 0.54


def test_they_never_open_a_document(text: Corpus) -> None:
    split = text.split("train")
    pieces = pieces_of(split)
    assert (pieces.label == 1).sum() > 50
    assert not what_can_be_seen(split, pieces)[:, 0].any()


def mixture(folder: Path, documents: list[str], weight: float) -> Split:
    prepared(folder, documents, valid_share=0.05)
    (folder / "mixture.yaml").write_text(f"corpus: {weight}\n")
    return Corpus.open(folder / "mixture.yaml").split("train")


@pytest.mark.parametrize("draw", [ANYWHERE, EXCHANGED])
def test_a_mixture_never_takes_one_from_the_very_same_document(tmp_path: Path, draw: int) -> None:
    split = mixture(tmp_path, made_up_documents(12, seed=5, longest=20), 3)
    found = np.concatenate([same_document(split, pieces_of(split, draw, epoch=epoch)) for epoch in range(4)])
    assert found.any() == (draw == ANYWHERE)


def same_document(split: Split, pieces: Pieces) -> np.ndarray:
    wrong = pieces[pieces.label == 1]
    (shard,) = split.shards
    opens = shard.sentence_starts(shard.document_sentences)
    return np.searchsorted(opens, wrong.second_start, "right") == np.searchsorted(opens, wrong.first_start, "right")


def test_where_one_document_is_alone_they_come_from_inside_others(tmp_path: Path) -> None:
    """Text of a window may be all of one document; a document may be of one sentence."""
    corpus = prepared(tmp_path, [*made_up_documents(6, seed=6, longest=30), *one_sentence_each(6)])
    split = corpus.split("train")
    for rank in range(split.num_documents):
        ranks = np.array([rank])
        shard, start, tokens = split.locate(permuted(ranks, split.num_documents, 3, 0))
        stretches = Stretches(ranks, shard, start, np.zeros_like(tokens), tokens)
        pieces = cut(split, Sampling(sentence_pairs="nsp"), 3, 0, LENGTH, stretches)
        assert not same_document(split, pieces).any()
        opens_document = what_can_be_seen(split, pieces)[:, 0].astype(bool)
        assert not opens_document[pieces.label == 1].any() and (pieces.second_tokens > 0).all()


def test_a_document_that_a_mixture_reads_twice_is_one(tmp_path: Path) -> None:
    documents = made_up_documents(20)
    kept = [next(text for text in documents if (text_hash(text.encode()) < 2**63) == valid) for valid in (False, True)]
    prepared(tmp_path, kept, valid_share=0.5)
    assert Corpus.open(tmp_path / "corpus").split("train").num_documents == 1
    (tmp_path / "mixture.yaml").write_text("corpus: 2\n")
    corpus = Corpus.open(tmp_path / "mixture.yaml")
    with pytest.raises(UserError, match="nsp needs two documents, the train split has one"):
        TrainingData(corpus, "train", 0, LENGTH, Masking(), sampling=Sampling(sentence_pairs="nsp"))


def test_a_run_that_an_earlier_version_began_keeps_its_own() -> None:
    pieces = pieces_of(Corpus.open(EARLIER).split("train"), ANYWHERE, length=32, epoch=1, short_probability=0.3)
    columns = [np.asarray(getattr(pieces, name), np.int64).tobytes() for name in pieces.__dataclass_fields__]
    assert hashlib.sha256(b"".join(columns)).hexdigest()[:16] == "d37a8d0fcfac5175"


def test_a_position_says_how_they_are_found(corpus: Corpus) -> None:
    saved = Progress().to_json()
    assert saved["position"].pop("draw") == EXCHANGED
    earlier = Progress.from_json(saved).position
    assert earlier.draw == ANYWHERE
    rows = []
    for start in (earlier, DataPosition()):
        data = TrainingData(corpus, "train", 5, LENGTH, Masking(), start, Sampling(sentence_pairs="nsp"))
        while data.position.epoch == 0:
            (batch,) = data.next(8, 8, 0, 1)
        rows.append(batch.ids)
        assert data.position.draw == start.draw
    assert not np.array_equal(*rows)
