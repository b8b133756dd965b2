import io
from collections.abc import Iterable
from pathlib import Path

import pytest
import sentencepiece

from model.errors import UserError
from pretrain.data.text.tokenizer import load_tokenizer, train_tokenizer
from tests.support.corpora import made_up_documents

TEXTS = made_up_documents(60)
SENTENCES = ["Ünïcode ﬁne — “quotes”  naïve", " blanks around ", *(text.split(".")[0] for text in TEXTS)]


def trained(path: Path, sentences: Iterable[str] = SENTENCES, **options) -> Path:
    """The file of a model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, minloglevel=2, **{"vocab_size": 120, **options}
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(byte_fallback=True, vocab_size=400),
        dict(add_dummy_prefix=False),
        dict(treat_whitespace_as_suffix=True),
        dict(user_defined_symbols=["quo", "<x>"]),
        dict(normalization_rule_name="identity", remove_extra_whitespaces=False),
    ],
    ids=str,
)
def test_a_given_model_gives_the_ids_of_its_own_library(kind: str, options: dict, tmp_path: Path) -> None:
    path = trained(tmp_path / "spm.model", model_type=kind, **options)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = load_tokenizer(path)
    texts = [*SENTENCES, "東京 \n\n <x>quote x\u200b \U0001f600", "", "  "]
    assert [ours.encode(text) for text in texts] == [theirs.encode(text) for text in texts]
    assert [list(each.ids) for each in ours.encode_documents(texts)] == [theirs.encode(text) for text in texts]


def test_a_model_keeps_the_names_of_its_special_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(trained(tmp_path / "spm.model"))
    size = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model")).get_piece_size()
    assert tokenizer.special_names == ["[PAD]", "<unk>", "<s>", "</s>", "[MASK]"]
    assert tokenizer.special.all() == [size, 0, 1, 2, size + 1]
    assert len(tokenizer.tokens) == size + 2


def test_a_special_token_that_the_model_finds_in_a_text_is_unknown(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(trained(tmp_path / "spm.model", user_defined_symbols=["[MASK]"]))
    assert tokenizer.special.mask not in tokenizer.encode("a [MASK] b")
    assert tokenizer.encode_masked("a [MASK] b").count(tokenizer.special.mask) == 1


@pytest.mark.parametrize("dummy", [True, False])
@pytest.mark.parametrize("fallback", [True, False])
def test_a_mask_is_a_word_with_its_blank(tmp_path: Path, dummy: bool, fallback: bool) -> None:
    options = dict(add_dummy_prefix=dummy, byte_fallback=fallback, vocab_size=400 if fallback else 120)
    tokenizer = load_tokenizer(trained(tmp_path / "spm.model", **options))
    mask, before = [tokenizer.special.mask], "Bado東 東do"
    after = tokenizer.encode(f"{before} badoki")[len(tokenizer.encode(before)) :]
    assert tokenizer.encode_masked(f"{before} [MASK] badoki") == tokenizer.encode(before) + mask + after
    assert tokenizer.encode_masked("[MASK] [MASK]") == mask * 2


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_trained_model_knows_berts_special_tokens(kind: str) -> None:
    first, second = (train_tokenizer(kind, TEXTS, 100, lowercase=True) for _ in range(2))
    assert first.content == second.content
    assert first.special.all() == [0, 1, 2, 3, 4]
    ids = first.encode(SENTENCES[-1])
    assert first.word_starts[ids].sum() == len(SENTENCES[-1].split())
    assert first.decode(ids) == SENTENCES[-1].lower()


def test_special_tokens_are_found_by_their_other_names(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(trained(tmp_path / "spm.model", pad_id=3, control_symbols=["<mask>"]))
    special = tokenizer.special
    assert (special.unk, special.cls, special.sep, special.pad, special.mask) == (0, 1, 2, 3, 4)


def test_too_large_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="cannot train"):
        train_tokenizer("bpe", [], 1000, lowercase=True)


def test_a_broken_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spm.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path / "spm.model")
