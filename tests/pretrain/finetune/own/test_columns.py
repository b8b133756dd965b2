"""Columns by their names, or as they are given."""

from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.finetune.own.columns import SENTENCES, SPANS, TAGS, Chosen, choose
from pretrain.finetune.own.table import Table


def table(names):
    return Table(Path("t.csv"), {name: ["a"] for name in names.split("|")})


@pytest.mark.parametrize(
    ("names", "known", "given", "chosen"),
    [
        ("id|text|label", SENTENCES, {}, (("text",), "label")),
        ("Review|Sentiment", SENTENCES, {}, (("Review",), "Sentiment")),
        ("text|review|label|score", SENTENCES, {}, (("text",), "label")),  # the plainest names
        ("idx|premise|hypothesis|label", SENTENCES, {}, (("premise", "hypothesis"), "label")),
        ("utterance|label", SENTENCES, {}, (("utterance",), "label")),  # the only other column
        ("text|intent", SENTENCES, {}, (("text",), "intent")),
        ("a|b|c", SENTENCES, dict(texts=["c"], label="a"), (("c",), "a")),
        ("title|body|stars", SENTENCES, dict(texts=["title", "body"]), (("title", "body"), "stars")),
        ("id|title|context|question|answers", SPANS, {}, (("question", "context"), "answers")),
        ("tokens|ner_tags", TAGS, {}, (("tokens",), "ner_tags")),
    ],
)
def test_names_tell(names, known, given, chosen):
    assert choose(table(names), known, **given) == Chosen(*chosen)


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (
            "review|comment|label",
            {},
            "which columns hold text .it has review, comment, label.; say it by --text COLUMN$",
        ),
        ("paragraph|age", {}, "hold text and label .it has paragraph, age.; say it by --text COLUMN --label COLUMN$"),
        ("text|a|b", {}, "hold label .it has text, a, b.; say it by --label COLUMN$"),
        (
            "It was good.|1",
            {},
            "by --text COLUMN --label COLUMN; if it has no header line, add one",
        ),
        (
            "review|label",
            dict(texts=["reviews"]),
            "t.csv has no column 'reviews' .did you mean 'review'..; it has review",
        ),
        ("text|label", dict(label="labl"), "t.csv has no column 'labl' .did you mean 'label'"),
    ],
)
def test_what_is_not_clear_is_asked_in_one_line(names, given, message):
    with pytest.raises(UserError, match=message) as raised:
        choose(table(names), SENTENCES, **given)
    assert "\n" not in str(raised.value)
