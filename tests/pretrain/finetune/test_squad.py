"""SQuAD: answers found through windows and tokens are the annotators' own characters."""

import copy
import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from model.errors import UserError
from pretrain.finetune.pretrained import model_folder
from pretrain.finetune.run import finetune, open_task
from pretrain.finetune.squad import Question, Squad
from pretrain.finetune.tasks import Settings
from tests.support.benchmark_files import PARAGRAPH, write_squad
from tests.support.run_on_disk import make_corpus, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "run", make_corpus(folder / "small"), sentence_head=False)
    return folder / "run"


@pytest.fixture(scope="module")
def tokenizer(run):
    with model_folder(run) as folder:
        return AutoTokenizer.from_pretrained(folder)


class Oracle:
    """Logits that point where the training features do."""

    def __init__(self, features):
        self.features = features

    def __call__(self, windows):
        length = max(len(window["input_ids"]) for window in windows)
        starts, ends = np.zeros((2, len(windows), length))
        assert [window["input_ids"] for window in windows] == [one["input_ids"] for one in self.features]
        for row, one in enumerate(self.features):
            starts[row, one["start_positions"]] += 5
            ends[row, one["end_positions"]] += 5
        return starts, ends


@pytest.mark.parametrize(("task", "version", "unanswerable"), [("squad", "v1.1", False), ("squad2", "v2.0", True)])
def test_places_lead_back_to_the_answers(tmp_path, tokenizer, task, version, unanswerable):
    problem = open_task(task, write_squad(tmp_path / "squad", version, unanswerable), 48)
    features = problem.training_features(tokenizer)
    assert len(features) > len(problem.dev)  # long texts are read in windows
    assert max(len(one["input_ids"]) for one in features) <= 48
    assert problem.score(tokenizer, Oracle(features)) == {"exact_match": 100.0, "f1": 100.0}


def test_without_unanswerable_questions_there_is_always_an_answer(tmp_path, tokenizer):
    problem = open_task("squad", write_squad(tmp_path / "squad"), 64)
    features = problem.training_features(tokenizer)
    nowhere = [{**one, "start_positions": 0, "end_positions": 0} for one in features]
    assert problem.score(tokenizer, Oracle(nowhere))["exact_match"] < 100


def test_the_windows_to_score_on_are_made_once_for_each_tokenizer(tmp_path, tokenizer):
    problem = open_task("squad", write_squad(tmp_path / "squad"), 64)
    distilled = copy.deepcopy(tokenizer)
    distilled.model_input_names = ["input_ids", "attention_mask"]
    first, second, other = (scored_windows(problem, one) for one in (tokenizer, tokenizer, distilled))
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert "token_type_ids" in first[0] and "token_type_ids" not in other[0]


def scored_windows(problem, tokenizer):
    """What the model reads to be scored."""
    given = []

    def predict(windows):
        given.extend(windows)
        return np.zeros((2, len(windows), 64))

    problem.score(tokenizer, predict)
    return given


def test_a_checkpoint_learns_three_answers(tmp_path, run):
    data = write_squad(tmp_path / "squad")
    (result,) = finetune(run, "squad", [Settings(lr=5e-3, batch=4, epochs=40)], [0], data, max_length=64)
    assert result.scores[0]["f1"] > 60


def texts(tokenizer, problem):
    """Of every window, as the model reads it."""
    return [tokenizer.convert_ids_to_tokens(one["input_ids"]) for one in problem.training_features(tokenizer)]


def long_text(tokenizer, num_tokens):
    known = sorted(filter(str.isalpha, tokenizer.get_vocab()))
    return np.random.default_rng(0).choice(known, num_tokens).tolist()


@pytest.mark.parametrize(("max_length", "step"), [(384, 128), (131, 62)])
def test_windows_start_128_tokens_after_each_other_or_half_their_room(tokenizer, max_length, step):
    text = long_text(tokenizer, 1000)
    question = Question.of("1", "a b c d", " ".join(text), text[:1], [0])
    windows = texts(tokenizer, Squad([question], [question], max_length))
    room = max_length - len(["[CLS]", *"abcd", "[SEP]", "[SEP]"])
    assert len(windows) == 1 + -(-(1000 - room) // step)
    for index, window in enumerate(windows):
        assert window == ["[CLS]", *"abcd", "[SEP]", *text[index * step : index * step + room], "[SEP]"]


def test_a_question_is_cut_after_64_tokens(tokenizer):
    asked = long_text(tokenizer, 200)
    question = Question.of("1", " ".join(asked), "the old dog", ["old"], [4])
    (window,) = texts(tokenizer, Squad([question], [question], 384))
    assert window == ["[CLS]", *asked[:64], "[SEP]", "the", "old", "dog", "[SEP]"]


def test_a_length_without_room_for_text_is_refused_before_training(tokenizer):
    short, long = (Question.of("1", question, "the old dog", ["old"], [4]) for question in ("a b", "a b c d"))
    assert len(texts(tokenizer, Squad([long], [short], 8))) == 3
    with pytest.raises(UserError, match="7 tokens .* a question of 4 tokens and 3 special .* --max-length 8 or more"):
        Squad([short], [long], 7).training_features(tokenizer)


def test_a_model_without_token_types_is_given_none(tokenizer, tmp_path):
    problem = open_task("squad", write_squad(tmp_path / "squad"), 64)
    distilled = copy.copy(tokenizer)
    distilled.model_input_names = ["input_ids", "attention_mask"]
    assert problem.training_features(tokenizer)[0]["token_type_ids"]
    assert "token_type_ids" not in problem.training_features(distilled)[0]


def test_num_examples_are_questions_not_windows(tmp_path, run, monkeypatch):
    seen = []
    monkeypatch.setattr("pretrain.finetune.run.fit", lambda model, features, *rest: seen.append(len(features)))
    data, once = write_squad(tmp_path / "squad"), Settings(lr=1e-3, batch=4, epochs=1)
    for num_examples in (1, 2, 3):
        next(finetune(run, "squad", [once], [0], data, max_length=48, num_examples=num_examples))
    assert 1 < seen[0] < seen[1] < seen[2]  # a text has several windows


def changed(**item):
    """A file whose one question has other values."""
    qas = [{"id": "1", "question": "who", "answers": [], **item}]
    return json.dumps({"data": [{"paragraphs": [{"context": PARAGRAPH, "qas": qas}]}]})


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"data": "hello"}', '{"data": [{"title": "x"}]}', '{"data": [{"paragraphs": [1]}]}'),
        *(changed(question=None), changed(answers=None), changed(answers=[{"text": "CAT"}])),
        changed(answers=[{"text": "CAT", "answer_start": "7"}]),
    ],
)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_file_of_another_form_is_one_line(tmp_path, split, content):
    folder = write_squad(tmp_path / "squad")
    (folder / f"{split}-v1.1.json").write_text(content)
    with pytest.raises(UserError, match=f"{split}-v1.1.json is not in SQuAD's format .*; give the official"):
        open_task("squad", folder, None)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_file_without_a_question_is_one_line(tmp_path, split):
    folder = write_squad(tmp_path / "squad")
    (folder / f"{split}-v1.1.json").write_text('{"data": []}')
    with pytest.raises(UserError, match=f"{split}-v1.1.json holds no question"):
        open_task("squad", folder, None)


@pytest.mark.parametrize("start", [99999, PARAGRAPH.index("CAT") - 1, PARAGRAPH.index("CAT") - len(PARAGRAPH)])
def test_an_answer_that_stands_elsewhere_is_left_out_and_said(tmp_path, capsys, start):
    folder = write_squad(tmp_path / "squad")
    content = json.loads((folder / "train-v1.1.json").read_text())
    questions = content["data"][0]["paragraphs"][0]["qas"]
    questions[1]["answers"][0]["answer_start"] = start
    (folder / "train-v1.1.json").write_text(json.dumps(content))
    assert [question.id for question in open_task("squad", folder, None).train] == ["0", "2"]
    assert "1 of 3 questions of train-v1.1.json are skipped" in capsys.readouterr().err
    del questions[2], questions[0]
    (folder / "train-v1.1.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no answer in train-v1.1.json is at its answer_start"):
        open_task("squad", folder, None)


def test_a_span_has_no_mean_to_be_told_by(tmp_path, run):
    with pytest.raises(UserError, match="pooling mean works for tasks on whole sentences, but squad reads tokens"):
        next(finetune(run, "squad", [], [0], write_squad(tmp_path / "squad"), pooling="mean"))
