import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import BertWordPieceTokenizer

from model.errors import UserError
from pretrain.data.text.tokenizer import (
    Vocabulary,
    load_tokenizer,
    read_tokenizer,
    save_tokenizer,
    train_tokenizer,
    transformers_tokenizer,
)
from tests.support.corpora import made_up_documents

TEXTS = made_up_documents(50)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_vocab(path: Path, tokens: list[str], special: list[str] = SPECIAL, start: str = "") -> Path:
    path.write_text(start + "".join(f"{token}\n" for token in [*special, *tokens]), "utf-8")
    return path


@pytest.mark.parametrize("kind", ["wordpiece", "characters"])
def test_trained_tokenizer_survives_saving_and_decodes_its_own_ids(kind: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(kind, TEXTS, 100, lowercase=True)
    assert len(tokenizer.tokens) <= 100
    fingerprint = save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert save_tokenizer(loaded, tmp_path) == fingerprint
    sentence = TEXTS[0].split(".")[0]
    ids = loaded.encode(sentence)
    assert ids == tokenizer.encode(sentence)
    assert loaded.decode(ids).strip() == sentence.lower()


@pytest.mark.parametrize("lowercase", [True, False])
def test_byte_level_bpe_has_tokens_for_any_text(tmp_path: Path, lowercase: bool) -> None:
    tokenizer, again = (train_tokenizer("byte-bpe", TEXTS, 400, lowercase) for _ in range(2))
    assert again.content == tokenizer.content
    assert len(tokenizer.tokens) == 400
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0]) / 2
    save_tokenizer(tokenizer, tmp_path)
    text = "Çà \u2603 \U0001f600 [MASK]\tend"
    ids = load_tokenizer(tmp_path / "tokenizer.json").encode(text)
    assert tokenizer.special.unk not in ids and tokenizer.special.mask not in ids
    assert tokenizer.decode(ids) == ("ca \u2603 \U0001f600 [mask]\tend" if lowercase else text)
    with pytest.raises(UserError, match="vocab_size 260 is too small for tokenizer byte-bpe: 261 tokens are its bytes"):
        train_tokenizer("byte-bpe", TEXTS, 260, lowercase)


def test_vocab_txt_gives_the_same_wordpiece(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("wordpiece", TEXTS, 150, lowercase=True)
    save_tokenizer(tokenizer, tmp_path)
    given = load_tokenizer(tmp_path / "vocab.txt")
    assert [given.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


@pytest.mark.parametrize(
    "tokens", [["\u2028", "the", "cat"], ["the\x0c", "\x85", "cat"], ["the", "cat", "the", "##s", "cat"]]
)
def test_vocab_txt_is_read_as_its_library_reads_it(tmp_path: Path, tokens: list[str]) -> None:
    """Tokens that are line ends to Python, and tokens that come twice: no id may shift."""
    path = write_vocab(tmp_path / "vocab.txt", [*tokens, "dog"])
    ours, theirs = load_tokenizer(path), BertWordPieceTokenizer(str(path))
    text = "The cat, the dogs"
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.token_to_id("dog") == len(SPECIAL) + len(tokens)
    assert Vocabulary(ours).vocab_size == len(SPECIAL) + len(tokens) + 1


def test_ids_that_no_token_has_replace_nothing_and_survive_saving(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "vocab.txt", ["the", "cat", "the", "dog"])
    save_tokenizer(load_tokenizer(path), tmp_path)
    for again in (tmp_path / "tokenizer.json", tmp_path / "vocab.txt"):
        vocabulary = Vocabulary(load_tokenizer(again))
        assert vocabulary.tokenizer.encode("the cat dog") == [7, 6, 8]
        assert vocabulary.vocab_size == 9
    assert Vocabulary.read(tmp_path / "tokenizer.json").ordinary_ids.tolist() == [6, 7, 8]


def test_a_byte_order_mark_is_no_part_of_a_token(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "vocab.txt", ["the"], start="\ufeff")
    tokenizer = load_tokenizer(path)
    assert tokenizer.special.all() == [0, 1, 2, 3, 4]
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + tokenizer.content)
    assert load_tokenizer(tmp_path / "tokenizer.json").content == tokenizer.content


def test_special_tokens_may_have_the_names_of_roberta(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "vocab.txt", ["the"], ["<pad>", "<unk>", "<s>", "</s>", "<mask>"])
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode("the other") == [5, tokenizer.special.unk]
    assert tokenizer.encode_masked("the [MASK]") == [5, 4]


def test_a_vocabulary_with_capitals_keeps_the_case(tmp_path: Path) -> None:
    cased = load_tokenizer(write_vocab(tmp_path / "cased.txt", ["The", "Über", "the"]))
    assert cased.encode("The the Über") == [5, 7, 6] and not cased.lowers_case
    assert load_tokenizer(tmp_path / "cased.txt", lowercase=False).content == cased.content
    uncased = load_tokenizer(write_vocab(tmp_path / "uncased.txt", ["the", "uber"]))
    assert uncased.encode("The Über") == [5, 6] and uncased.lowers_case


def test_settings_next_to_a_vocab_txt_are_honoured(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "vocab.txt", ["über", "uber"])
    settings = tmp_path / "tokenizer_config.json"
    for text, expected in {
        "{}": [6],
        '{"strip_accents": false}': [5],
        '{"do_lower_case": false}': [1],
    }.items():
        settings.write_text(text)
        assert load_tokenizer(path).encode("Über") == expected
    settings.write_text('{"do_lower_case": true}')
    with pytest.raises(UserError, match="--no-lowercase contradicts"):
        load_tokenizer(path, lowercase=False)
    settings.write_text('{"do_lower_case": "yes"}')
    with pytest.raises(UserError, match="do_lower_case 'yes' must be true or false"):
        load_tokenizer(path)


@pytest.mark.parametrize("with_json", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"strip_accents": False}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}]
)
def test_a_folder_of_transformers_gives_the_ids_of_transformers(
    tmp_path: Path, settings: dict, with_json: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    tokens = ["Über", "über", "uber", "東", "京", "東京"]
    path = write_vocab(tmp_path / "vocab.txt", tokens)
    tokenizer = load_tokenizer(path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    if with_json:
        save_tokenizer(tokenizer, tmp_path)
        settings = {"do_lower_case": False} | settings  # as the file has it, whose vocabulary has capitals
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = transformers_tokenizer(tmp_path)
    assert ours.encode("Über 東京") == theirs("Über 東京", add_special_tokens=False)["input_ids"]


def test_training_is_deterministic() -> None:
    first, second = (train_tokenizer("wordpiece", TEXTS, 150, lowercase=True).content for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["wordpiece", "characters"])
def test_word_starts_mark_as_many_words_as_there_are(kind: str) -> None:
    tokenizer = train_tokenizer(kind, TEXTS, 100, lowercase=True)
    sentence = TEXTS[0].split(".")[0]
    assert tokenizer.word_starts[tokenizer.encode(sentence)].sum() == len(sentence.split())


def test_characters_keep_the_commonest() -> None:
    tokenizer = train_tokenizer("characters", ["aaa bb", "aab c"], 8, lowercase=True)
    assert set(tokenizer.tokens) - set(SPECIAL) == {"▁", "a", "b"}
    assert tokenizer.encode("bac")[-1] == tokenizer.special.unk


def test_a_trained_vocabulary_has_room_for_the_characters_of_chinese() -> None:
    """3,500 of them, each about as frequent as the next: 1,000 would leave every fifth unknown."""
    draw = np.random.default_rng(0)
    texts = ["".join(map(chr, 0x4E00 + draw.integers(0, 3500, 100))) for _ in range(500)]
    tokenizer = train_tokenizer("wordpiece", texts, 25_000, lowercase=True)
    ids = np.concatenate([tokenizer.encode(text) for text in texts])
    assert (ids == tokenizer.special.unk).mean() < 1e-3


def test_rare_characters_do_not_take_the_room_of_words() -> None:
    rare = [chr(code) for code in range(0x4E00, 0x4E00 + 400)]
    tokenizer = train_tokenizer("wordpiece", [*TEXTS * 20, *rare], 200, lowercase=True)
    assert sum(token in rare for token in tokenizer.tokens) <= 70
    assert sum(len(token.removeprefix("##")) > 1 for token in tokenizer.tokens) > 50


def test_bad_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    with pytest.raises(UserError, match=r"lacks \[CLS\], \[SEP\], \[MASK\]"):
        load_tokenizer(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="does not exist"):
        read_tokenizer(tmp_path / "tokenizer.model")
    with pytest.raises(UserError, match="too small"):
        train_tokenizer("characters", TEXTS, 5, lowercase=True)
