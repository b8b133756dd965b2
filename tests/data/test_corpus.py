from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.data import Corpus
from tests.data.conftest import made_up_documents, prepared


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Corpus.open(tmp_path / "none")
    with pytest.raises(UserError, match="no manifest.json"):
        Corpus.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="not the manifest"):
        Corpus.open(tmp_path)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    prepared(tmp_path / "a", made_up_documents(30))
    prepared(tmp_path / "b", made_up_documents(30), vocab_size=150)
    (tmp_path / "a/corpus/tokenizer.json").write_bytes((tmp_path / "b/corpus/tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="does not match the shards"):
        Corpus.open(tmp_path / "a/corpus")


def test_token_tables_agree_with_the_tokenizer(corpus: Corpus) -> None:
    assert corpus.is_special.sum() == 5 and len(corpus.ordinary_ids) == corpus.vocab_size - 5
    assert corpus.tokenizer.id_to_token(corpus.special.mask) == "[MASK]"
