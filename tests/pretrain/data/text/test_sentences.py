import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.text.sentences import split_sentences

ENGLISH = [
    ["It rained.", "We left!", "Why?", "No reason."],
    ["Mr. Smith met Dr. Jones in St. Louis.", "They left."],
    ["George W. Bush spoke of the U.S. Senate.", "It listened."],
    ['"Stop!"', "He stopped.", '("Good.") Then 12 came.'],
    ["It cost 3.14 dollars, e.g. for pi.", "Cheap."],
    ["Wait… what?", "I am here... not there.", "No!!!", "Yes."],
]


@pytest.mark.parametrize("sentences", ENGLISH)
def test_splits_where_a_reader_would(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


LANGUAGES = {
    "hindi": ["मैं घर जा रहा हूँ।", "क्या तुम आओगे?", "हाँ!", "ठीक है।"],
    "urdu": ["میں گھر جا رہا ہوں۔", "کیا تم آؤ گے؟", "ہاں!", "ٹھیک ہے۔"],
    "arabic": ["ذهبت إلى البيت.", "هل ستأتي؟", "نعم!", "وصل في الساعة 3.14 مساء."],
    "amharic": ["ወደ ቤት ሄድኩ።", "ትመጣለህ፧", "አዎ!", "እሺ፡፡", "ሄደ።"],
    "armenian": ["Ես տուն եմ գնում։", "Կգա՞ս։", "Այո:", "Լավ։"],
    "burmese": ["ကျွန်တော် အိမ်သွားတယ်။", "လာမလား။", "ဟုတ်ကဲ့။"],
    "bengali": ["আমি বাড়ি যাচ্ছি।", "তুমি আসবে?", "হ্যাঁ।"],
    "tamil": ["நான் வீட்டிற்கு போகிறேன்.", "நீ வருவாயா?", "ஆம்."],
    "greek": ["Πάω σπίτι.", "Θα έρθεις;", "Ναι!"],
    "hebrew": ["אני הולך הביתה.", "תבוא?", "כן!"],
    "russian": ["Он приехал в г. Москву в 1990 г. и остался.", "А. С. Пушкин умер.", "он пришел.", "она ушла."],
    "korean": ["나는 집에 갑니다.", "너는 오니?", "네!"],
    "khmer": ["ខ្ញុំទៅផ្ទះ។", "តើអ្នកមកទេ?", "បាទ។"],
    "tibetan": ["ང་ཁྱིམ་ལ་འགྲོ།", "ཁྱོད་ཡོང་ངམ།", "ཡོང་།"],
    "spanish": ["¿Vienes?", "¡Sí!", "El Sr. Gómez llegó."],
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_knows_the_marks_of_other_scripts(language: str) -> None:
    assert split_sentences(" ".join(LANGUAGES[language])) == LANGUAGES[language]


@pytest.mark.parametrize(
    "sentences",
    [
        ["我来了。", "你呢？", "好！"],
        ["私は来た。", "値段は3.5ドル。", "本当？？"],
        ["वह आया।", "वह गया।"],
        ["وہ آیا۔", "وہ گیا۔"],
    ],
    ids=["chinese", "japanese", "hindi", "urdu"],
)
def test_needs_no_blanks_where_a_script_has_none(sentences: list[str]) -> None:
    assert split_sentences("".join(sentences)) == sentences


def test_the_language_decides_what_is_an_abbreviation() -> None:
    german = ["Am 3. Oktober kam Hr. Meier z. B. zu uns.", "Er blieb bis zum 5. Mai.", "Gut."]
    assert split_sentences(" ".join(german), "de") == german
    assert len(split_sentences(" ".join(german))) == 5


def test_lower_cased_english_is_split_as_well() -> None:
    books = [
        "usually , he would be tearing around the living room , playing with his toys .",
        "but just one look at a minion sent him practically catatonic .",
        "`` he 'd seen the movie almost by mistake , '' she said .",
        "mr. smith saw dr. jones at 3.14 p.m. today .",
        "will he come ?",
    ]
    assert split_sentences(" ".join(books)) == split_sentences("\n".join(books)) == books


def test_without_a_mark_a_line_is_a_sentence() -> None:
    assert split_sentences("the cat sat\nthe dog ran\n\nit rained") == ["the cat sat", "the dog ran", "it rained"]
    assert split_sentences("the cat sat the dog ran") == ["the cat sat the dog ran"]


def test_a_line_that_only_wraps_a_sentence_is_none() -> None:
    wrapped = ["A line that is wrapped\nat some column.", "And it\ngoes on.", "Yes."]
    assert split_sentences(" ".join(wrapped)) == wrapped


def test_one_sentence_a_line_on_request() -> None:
    text = "He left. She stayed\n  with him\n\nThe end"
    assert split_sentences(text, one_a_line=True) == ["He left. She stayed", "with him", "The end"]


def test_a_blank_line_ends_a_sentence() -> None:
    assert split_sentences("A heading\n \nThe text begins here.") == ["A heading", "The text begins here."]


@pytest.mark.parametrize("blank", ["", " "])
def test_a_long_paragraph_is_split_as_short_ones_are(blank: str) -> None:
    sentences = ["他说我来了。", "“你呢？”", "很长的一句" * 3000 + "。", "好！"] * 40
    assert split_sentences(blank.join(sentences)) == sentences


def test_time_does_not_grow_with_the_square_of_the_length() -> None:
    """The library's does where quotation marks are never closed: a megabyte of this takes it two minutes."""
    began = time.process_time()
    assert len(split_sentences("“我来了。" * 10_000)) == 10_000
    assert time.process_time() - began < 30


@given(st.text(), st.sampled_from(["auto", "en", "de", "hy", "my", "el"]))
def test_loses_nothing_but_blanks(text: str, language: str) -> None:
    sentences = split_sentences(text, language)
    assert all(sentences) and "".join("".join(sentences).split()) == "".join(text.split())
