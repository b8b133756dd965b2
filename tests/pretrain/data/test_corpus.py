from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from model.errors import UserError
from pretrain.data import Corpus, Masking, Sampling, TrainingData
from tests.support.corpora import made_up_documents, prepared


def test_a_folder_that_is_not_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Corpus.open(tmp_path / "none")
    with pytest.raises(UserError, match="lacks manifest.json"):
        Corpus.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(UserError, match="not the manifest"):
        Corpus.open(tmp_path)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    prepared(tmp_path / "a", made_up_documents(30))
    prepared(tmp_path / "b", made_up_documents(30), vocab_size=150)
    (tmp_path / "a/corpus/tokenizer.json").write_bytes((tmp_path / "b/corpus/tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="does not match that of the shards"):
        Corpus.open(tmp_path / "a/corpus")


def test_token_tables_agree_with_the_tokenizer(corpus: Corpus) -> None:
    assert corpus.is_special.sum() == 5 and len(corpus.ordinary_ids) == corpus.vocab_size - 5
    assert corpus.tokenizer.id_to_token(corpus.special.mask) == "[MASK]"


def test_the_hash_of_a_split_changes_with_its_text_vocabulary_and_weights(tmp_path: Path) -> None:
    def valid_hash(name: str, seed: int, **options) -> str:
        (tmp_path / name).mkdir()
        return prepared(tmp_path / name, made_up_documents(30, seed=seed), **options).split_hash("valid")

    first = valid_hash("first", 0)
    vocab = {"vocab": tmp_path / "first/corpus/tokenizer.json"}
    assert valid_hash("again", 0, **vocab) == first
    changed = [valid_hash("text", 1, **vocab), valid_hash("vocabulary", 0, vocab_size=150)]
    for weights in ((1, 1), (1, 2)):
        lines = [f"{name}/corpus: {weight}\n" for name, weight in zip(("first", "text"), weights, strict=True)]
        (tmp_path / "mixture.yaml").write_text("".join(lines))
        changed.append(Corpus.open(tmp_path / "mixture.yaml").split_hash("valid"))
    assert len({first, *changed}) == 5


def mixture(tmp_path: Path, weights: tuple[float, ...]) -> Corpus:
    """Corpora of 30, 31, ... documents with one vocabulary, all of them mixed."""
    for number in range(len(weights)):
        (tmp_path / str(number)).mkdir()
        vocab = {"vocab": tmp_path / "0/corpus/tokenizer.json"} if number else {}
        prepared(tmp_path / str(number), made_up_documents(30 + number, seed=number), **vocab)
    lines = [f"{number}/corpus: {weight}\n" for number, weight in enumerate(weights)]
    (tmp_path / "mixture.yaml").write_text("".join(lines))
    return Corpus.open(tmp_path / "mixture.yaml")


def test_a_mixture_goes_through_each_corpus_as_often_as_its_weight_says(tmp_path: Path) -> None:
    corpus = mixture(tmp_path, (2.0, 0.5, 1.0))
    split = corpus.split("train")
    sizes = [shard.num_documents for shard in split.shards]
    counts = [2 * sizes[0], round(sizes[1] / 2), sizes[2]]
    assert split.num_documents == sum(counts)
    seen = []
    for epoch in range(2):
        shard, start, length = split.locate(np.arange(split.num_documents), epoch)
        assert np.bincount(shard).tolist() == counts and (length > 0).all()
        seen.append(list(zip(shard.tolist(), start.tolist(), strict=True)))
    for number, times in ((0, 4), (2, 2)):
        found = Counter(start for epoch in seen for shard, start in epoch if shard == number)
        assert len(found) == sizes[number] and set(found.values()) == {times}
    halves = [{start for shard, start in epoch if shard == 1} for epoch in seen]
    assert len(halves[0] | halves[1]) == min(2 * counts[1], sizes[1])


def test_a_mixture_trains_like_a_corpus(tmp_path: Path) -> None:
    corpus = mixture(tmp_path, (1.0, 0.5))
    data = TrainingData(corpus, "train", 0, 64, Masking(), sampling=Sampling(pack=True, sentence_pairs="nsp"))
    assert all(batch.ids.shape == (8, 64) for batch in data.next(64, 8, 0, 1))


def test_mixtures_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    prepared(tmp_path / "a", made_up_documents(30))
    prepared(tmp_path / "b", made_up_documents(30), vocab_size=150)
    mixture = tmp_path / "mixture.yaml"
    for content, message in {
        "a/corpus: 1\nb/corpus: 1": "different tokenizers",
        "a/corpus: 0": "above 0",
        "a/corpus: much": "above 0",
        "a/corpus: 1\nc/corpus: 1": "does not exist",
        "[a, b]": "not a mixture",
        "a: b: c": "not a mixture",
        "": "not a mixture",
    }.items():
        mixture.write_text(content)
        with pytest.raises(UserError, match=message):
            Corpus.open(mixture)
