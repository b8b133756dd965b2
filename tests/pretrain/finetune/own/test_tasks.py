"""Rows of a table as examples of each task: kinds of labels, what is missing, the held-out part."""

import json
from collections import Counter

import pytest

from model.errors import UserError
from pretrain.finetune.own.examples import Source
from pretrain.finetune.own.open import OWN_TASKS, own_table


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(tmp_path, task, rows, valid=None, **options):
    source = Source(write(tmp_path / "own.jsonl", rows), valid and write(tmp_path / "valid.jsonl", valid), **options)
    return OWN_TASKS[task](source, 64)


def classes(labels):
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg"], ("neg", "pos")),
        ([10, 2], ("2", "10")),
        ([1.0, 2.0, None], ("1", "2")),
        ([True, False], ("False", "True")),
        ([" yes", "no "], ("no", "yes")),
    ],
)
def test_labels_are_names_or_numbers(tmp_path, labels, names):
    assert opened(tmp_path, "classify", classes(labels * 10)).labels == names


def test_rows_without_text_or_label_are_skipped_and_counted(tmp_path, capsys):
    bad = [{"text": "", "label": 1}, {"text": " ", "label": 0}, {"text": None, "label": 1}, {"text": "a", "label": ""}]
    problem = opened(tmp_path, "classify", [*classes([0, 1] * 10), *bad, {"text": "no label"}])
    assert len(problem.train) + len(problem.dev["dev"]) == 20
    assert "5 of 25 rows skipped, their text or label is missing" in capsys.readouterr().err


def test_every_class_is_held_out_in_proportion_and_equal_texts_stay_together(tmp_path, capsys):
    rows = classes(["often"] * 80 + ["rare"] * 10 + ["once"])
    problem = opened(tmp_path, "classify", rows + rows[:80], valid_share=0.2)
    train, dev = ([problem.labels[one.label] for one in part] for part in (problem.train, problem.dev["dev"]))
    assert Counter(dev) == {"often": 32, "rare": 2} and Counter(train) == {"often": 128, "rare": 8, "once": 1}
    assert {one.sentences for one in problem.train}.isdisjoint(one.sentences for one in problem.dev["dev"])
    assert "3 classes; always 'often' would have accuracy 0.9412" in capsys.readouterr().err
    again = opened(tmp_path, "classify", rows + rows[:80], valid_share=0.2)
    assert again.dev == problem.dev


def test_a_held_out_table_is_scored_and_what_it_repeats_is_said(tmp_path, capsys):
    problem = opened(tmp_path, "classify", classes("ab" * 5), valid=[*classes("ab"), {"text": "new", "label": "c"}])
    assert (len(problem.train), len(problem.dev["dev"])) == (10, 3)
    assert problem.scored_on.endswith("valid.jsonl")
    said = capsys.readouterr().err
    assert "2 texts of" in said and "are trained on too" in said
    assert "has labels that training never shows, which count as wrong: c" in said
    assert problem.dev["dev"][-1].label == -1


def test_pairs_and_numbers(tmp_path):
    rows = [{"text1": f"a {n}", "text2": "b", "score": value} for n, value in enumerate([100, "102.5", "NA", None] * 8)]
    problem = opened(tmp_path, "regress", rows)
    assert len(problem.train) + len(problem.dev["dev"]) == 16 and problem.labels == ()
    assert problem.train[0].sentences == ("a 0", "b") and problem.train[0].label == 100.0
    assert problem.scale.mean == pytest.approx(101.25, abs=0.2)


CONTEXT = "The old dog sings under a green tree."


def test_answers_in_every_form(tmp_path):
    forms = [
        {"answers": {"text": ["a green tree"], "answer_start": [24]}},
        {"answers": '{"text": ["a green tree"], "answer_start": [24]}'},
        {"answers": "a green tree", "answer_start": 24},
        {"answers": "a green tree", "answer_start": "24"},
        {"answers": "a green tree"},
    ]
    rows = [{"question": "Where?", "context": f"{CONTEXT}{number}", **form} for number, form in enumerate(forms)]
    none = [{"question": "Who?", "context": CONTEXT, "answers": answer} for answer in (None, {"text": []})]
    problem = opened(tmp_path, "spans", [*rows, *none], valid=rows[:1])
    assert [(one.answers, one.start) for one in problem.train] == [(("a green tree",), 24)] * 5 + [((), None)] * 2


@pytest.mark.parametrize("as_text", [list, json.dumps, " ".join])
def test_words_and_tags(tmp_path, as_text):
    rows = [{"words": as_text(["Jane", "sings"]), "tags": as_text(["B-PER", "O"])}] * 2
    problem = opened(tmp_path, "tags", rows, valid=rows)
    assert problem.labels == ("B-PER", "O") and problem.train[0].words == ("Jane", "sings")


MANY = [{"text": f"t {n}", "label": n / 7} for n in range(50)]


@pytest.mark.parametrize(
    ("task", "rows", "options", "message"),
    [
        ("classify", classes("a" * 20), {}, "the label is 'a' in every row to train on; nothing to tell apart"),
        (
            "classify",
            MANY,
            {"valid": True},
            "50 different labels in 50 rows are too many to be classes.*--task regress",
        ),
        ("classify", classes("ab"), {}, "2 examples are too few to hold out 0.1 of them.*--valid-share"),
        (
            "classify",
            [{"text": "", "label": ""}],
            {},
            "has no row with both text and label; look at text and label",
        ),
        ("regress", classes([1] * 20), {}, "the label is 1 in every row to train on; nothing to predict"),
        ("regress", classes([1, "3,5"]), {}, "own.jsonl, row 2: label '3,5' is not a number; write it like 3.5"),
        ("spans", [{"question": "q", "context": "c", "answers": "{"}], {}, "row 1: '{' is not JSON"),
        (
            "spans",
            [{"question": "q", "context": "c", "answers": "x"}] * 9,
            {"valid": True},
            "no answer in .* is at its",
        ),
        ("spans", [], {"text": ("one",)}, "--task spans needs two columns, --text QUESTION CONTEXT; --text one"),
        ("tags", [{"words": ["a", "b"], "tags": ["O"]}], {}, "row 1 has 2 words and 1 tags; give each word one"),
        ("tags", [{"words": ["a"], "tags": '["O"'}], {}, "row 1: .* is not a JSON list"),
        ("tags", [{"words": ["a"], "tags": 5}], {}, "row 1: '5' is not a list"),
        ("tags", [{"words": [f"a{n}"], "tags": ["O"]} for n in range(20)], {}, "the tag is 'O' for every word"),
    ],
)
def test_tables_that_teach_nothing_are_refused_in_one_line(tmp_path, task, rows, options, message):
    valid = rows if options.pop("valid", None) else None
    with pytest.raises(UserError, match=message) as raised:
        opened(tmp_path, task, rows, valid, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("sst2", dict(label="y"), "--label is for a table of your own: --task classify, regress, spans, tags"),
        ("classify", dict(data=None), "--task classify needs your table: --data FILE"),
        ("classify", dict(text=("a", "b", "c")), "--text a b c names 3 columns"),
        (
            "classify",
            dict(valid="v.csv", valid_share=0.1),
            "--valid v.csv is held out already; leave out --valid-share",
        ),
        ("classify", dict(valid_share=1.0), "--valid-share 1 must lie between 0 and 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(task, changes, message):
    with pytest.raises(UserError, match=message):
        own_table(task, **(dict(data="t.csv", valid=None, valid_share=None, text=(), label=None) | changes))
