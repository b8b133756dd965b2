"""SQuAD: answers found through windows and tokens are the annotators' own characters."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from model.errors import UserError
from pretrain.finetune.pretrained import model_folder
from pretrain.finetune.run import finetune, open_task
from pretrain.finetune.tasks import Settings
from tests.run_on_disk import make_corpus, make_run

TEXT = "The old dog sings under a green tree, near the river. " * 4 + "A small CAT runs near the House!"


def write_squad(folder, version="v1.1", unanswerable=False):
    folder.mkdir()
    answers = [("where is the dog", "under a green tree"), ("who runs", "CAT"), ("where runs a cat", "near the House")]
    qas = [
        {"id": str(n), "question": question, "answers": [{"text": text, "answer_start": TEXT.index(text)}]}
        for n, (question, text) in enumerate(answers)
    ]
    if unanswerable:
        qas.append({"id": "none", "question": "who sleeps", "answers": [], "is_impossible": True})
    content = json.dumps({"data": [{"title": "t", "paragraphs": [{"context": TEXT, "qas": qas}]}]})
    for split in ("train", "dev"):
        (folder / f"{split}-{version}.json").write_text(content)
    return folder


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


def test_a_checkpoint_learns_three_answers(tmp_path, run):
    data = write_squad(tmp_path / "squad")
    (result,) = finetune(run, "squad", [Settings(lr=5e-3, batch=4, epochs=40)], [0], data, max_length=64)
    assert result.scores[0]["f1"] > 60


def test_a_broken_file_is_one_line(tmp_path):
    folder = write_squad(tmp_path / "squad")
    (folder / "dev-v1.1.json").write_text("[]")
    with pytest.raises(UserError, match="dev-v1.1.json is not a file of SQuAD"):
        open_task("squad", folder, None)


def test_a_span_has_no_mean_to_be_told_by(tmp_path, run):
    with pytest.raises(UserError, match="pooling mean is for tasks of whole sentences, and squad looks for a span"):
        next(finetune(run, "squad", [], [0], write_squad(tmp_path / "squad"), pooling="mean"))
