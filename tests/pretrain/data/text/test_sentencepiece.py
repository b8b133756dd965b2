import io
from pathlib import Path

import pytest
import sentencepiece

from model.errors import UserError
from pretrain.data.text.tokenizer import SpecialIds, load_tokenizer, train_tokenizer, word_starts
from tests.support.corpora import made_up_documents

TEXTS = made_up_documents(60)
SENTENCES = ["Ünïcode ﬁne — “quotes”  naïve", " blanks around ", *(text.split(".")[0] for text in TEXTS)]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_given_model_gives_the_ids_of_its_own_library(kind: str, tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type=kind, vocab_size=120, minloglevel=2
    )
    (tmp_path / "spm.model").write_bytes(model.getvalue())
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ours = load_tokenizer(tmp_path / "spm.model", lowercase=True)
    assert [ours.encode(s, add_special_tokens=False).ids for s in SENTENCES] == [theirs.encode(s) for s in SENTENCES]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_trained_model_knows_berts_special_tokens(kind: str) -> None:
    first, second = (train_tokenizer(kind, TEXTS, 100, lowercase=True) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert SpecialIds.of(first).all() == [0, 1, 2, 3, 4]
    ids = first.encode(SENTENCES[-1], add_special_tokens=False).ids
    assert word_starts(first)[ids].sum() == len(SENTENCES[-1].split())
    assert first.decode(ids) == SENTENCES[-1].lower()


def test_special_tokens_are_found_by_their_other_names(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=120, minloglevel=2, pad_id=3,
        control_symbols=["<mask>"],
    )  # fmt: skip
    (tmp_path / "spm.model").write_bytes(model.getvalue())
    special = SpecialIds.of(load_tokenizer(tmp_path / "spm.model", lowercase=True))
    assert (special.unk, special.cls, special.sep, special.pad, special.mask) == (0, 1, 2, 3, 4)


def test_too_large_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="cannot train"):
        train_tokenizer("bpe", [], 1000, lowercase=True)


def test_a_broken_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spm.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path / "spm.model", lowercase=True)
