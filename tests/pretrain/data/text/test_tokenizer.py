from pathlib import Path

import numpy as np
import pytest

from model.errors import UserError
from pretrain.data.text.tokenizer import SpecialIds, load_tokenizer, save_tokenizer, train_tokenizer, word_starts
from tests.support.corpora import made_up_documents

TEXTS = made_up_documents(50)


@pytest.mark.parametrize("kind", ["wordpiece", "characters"])
def test_trained_tokenizer_survives_saving_and_decodes_its_own_ids(kind: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(kind, TEXTS, 100, lowercase=True)
    assert tokenizer.get_vocab_size() <= 100
    fingerprint = save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path / "tokenizer.json", lowercase=True)
    assert save_tokenizer(loaded, tmp_path) == fingerprint
    sentence = TEXTS[0].split(".")[0]
    ids = loaded.encode(sentence).ids
    assert ids == tokenizer.encode(sentence).ids
    assert loaded.decode(ids).strip() == sentence.lower()


def test_vocab_txt_gives_the_same_wordpiece(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("wordpiece", TEXTS, 150, lowercase=True)
    save_tokenizer(tokenizer, tmp_path)
    given = load_tokenizer(tmp_path / "vocab.txt", lowercase=True)
    assert [given.encode(text).ids for text in TEXTS] == [tokenizer.encode(text).ids for text in TEXTS]


def test_training_is_deterministic() -> None:
    first, second = (train_tokenizer("wordpiece", TEXTS, 150, lowercase=True).to_str() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["wordpiece", "characters"])
def test_word_starts_mark_as_many_words_as_there_are(kind: str) -> None:
    tokenizer = train_tokenizer(kind, TEXTS, 100, lowercase=True)
    sentence = TEXTS[0].split(".")[0]
    assert word_starts(tokenizer)[tokenizer.encode(sentence).ids].sum() == len(sentence.split())


def test_characters_keep_the_commonest() -> None:
    tokenizer = train_tokenizer("characters", ["aaa bb", "aab c"], 8, lowercase=True)
    assert set(tokenizer.get_vocab()) - {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} == {"▁", "a", "b"}
    assert tokenizer.encode("bac").ids[-1] == SpecialIds.of(tokenizer).unk
    assert np.array_equal(np.sort(list(tokenizer.get_vocab().values())), np.arange(8))


def test_bad_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path / "vocab.txt", lowercase=True)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    with pytest.raises(UserError, match=r"lacks \[CLS\], \[SEP\], \[MASK\]"):
        load_tokenizer(tmp_path / "vocab.txt", lowercase=True)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.json", lowercase=True)
    with pytest.raises(UserError, match="too small"):
        train_tokenizer("characters", TEXTS, 5, lowercase=True)
