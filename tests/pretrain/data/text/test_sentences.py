import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.text.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "We left!", "Why?", "No reason."],
        ["Mr. Smith met Dr. Jones in St. Louis.", "They left."],
        ["George W. Bush spoke of the U.S. Senate.", "It listened."],
        ['"Stop!"', "He stopped.", '("Good.")', "Then 12 came."],
        ["A heading", "The text begins here."],
        ["It cost 3.14 dollars, e.g. for pi.", "Cheap."],
    ],
)
def test_splits_where_a_reader_would(sentences: list[str]) -> None:
    text = " ".join(sentences).replace("A heading ", "A heading\n \n")
    assert split_sentences(text) == sentences


def test_chinese_needs_no_blanks() -> None:
    assert split_sentences("我来了。你呢？好！") == ["我来了。", "你呢？", "好！"]


@given(st.text())
def test_loses_nothing_but_blanks(text: str) -> None:
    sentences = split_sentences(text)
    assert all(sentences) and "".join("".join(sentences).split()) == "".join(text.split())
