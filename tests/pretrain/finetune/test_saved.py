"""A fine-tuned model as transformers opens it: the logits, the names of the labels, the tokenizer."""

import json

import numpy as np
import pytest
import torch

from model.errors import UserError
from pretrain.__main__ import main
from pretrain.finetune.fit import predict
from pretrain.finetune.own.examples import Source
from pretrain.finetune.own.open import OWN_TASKS
from pretrain.finetune.pretrained import Pretrained
from pretrain.finetune.saved import check_save, save
from pretrain.use.export import export
from tests.support.run_on_disk import make_corpus, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    above = tmp_path_factory.mktemp("runs")
    make_run(above / "run", make_corpus(above / "corpus"))
    return above / "run"


@pytest.fixture(scope="module")
def exported(run):
    return export(run, run.parent / "model")


ROWS = {
    "classify": [{"text": f"The old {('cat', 'dog')[n % 2]} sings {n}", "label": "yn"[n % 2]} for n in range(24)],
    "regress": [{"text": f"The old {('cat', 'dog')[n % 2]} sings {n}", "label": 50 + n % 2} for n in range(24)],
    "spans": [{"question": "who", "context": f"The old dog sings {n}", "answer": "dog"} for n in range(12)],
    "tags": [{"words": ["The", "old", "dog", f"s{n}"], "tags": ["O", "O", "B-A", "O"]} for n in range(12)],
}


def opened(tmp_path, task):
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]))
    return OWN_TASKS[task](Source(tmp_path / "own.jsonl"), 48)


@pytest.mark.parametrize("task", ROWS)
def test_transformers_opens_it_with_the_same_logits(exported, tmp_path, task):
    import transformers

    problem = opened(tmp_path, task)
    pretrained = Pretrained(exported)
    tokenizer, model = pretrained.tokenizer(), pretrained.model(problem, seed=0).eval()
    features = problem.training_features(tokenizer)
    before = predict(model, features, 8, tokenizer.pad_token_id)
    if task == "regress":
        before = tuple(logits * problem.scale.deviation + problem.scale.mean for logits in before)
    save(tmp_path / "saved", model, tokenizer, problem)
    opened_again = getattr(transformers, problem.architecture).from_pretrained(tmp_path / "saved")
    after = predict(opened_again, features, 8, tokenizer.pad_token_id)
    assert all(np.allclose(one, other, rtol=1e-5, atol=1e-5) for one, other in zip(before, after, strict=True))
    if problem.labels:
        assert tuple(opened_again.config.id2label.values()) == problem.labels
        assert opened_again.config.label2id[problem.labels[1]] == 1
    its_own = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert its_own("The old dog sings")["input_ids"] == tokenizer("The old dog sings")["input_ids"]
    if task == "classify":
        (answer,) = transformers.pipeline("text-classification", str(tmp_path / "saved"))("The old dog")
        assert answer["label"] in problem.labels


@pytest.mark.parametrize(
    ("task", "metric", "least"), [("classify", "accuracy", 1), ("regress", "r2", 0.9), ("tags", "entity_f1", 1)]
)
def test_a_table_is_learned_and_the_best_model_saved(run, tmp_path, capsys, task, metric, least):
    import transformers

    opened(tmp_path, task)
    arguments = ["finetune", str(run), "--task", task, "--data", str(tmp_path / "own.jsonl"), "--valid-share", "0.25"]
    arguments += ["--save", str(tmp_path / "saved"), "--output", str(tmp_path / "out.json"), "--lr", "3e-3"]
    assert main([*arguments, "--batch", "4", "--epochs", "12"]) == 0
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert result[metric]["median"] >= least
    said = capsys.readouterr()
    assert f"the model with the best score is in {tmp_path / 'saved'}" in said.out
    assert f"held out of {tmp_path / 'own.jsonl'}" in said.out
    if task == "regress":
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
        with torch.no_grad():
            value = model(**tokenizer("The old dog sings 3", return_tensors="pt")).logits.item()
        assert value == pytest.approx(51, abs=0.3)  # in the table's own unit
    if task == "classify":
        assert main([*arguments, "--pooling", "mean"]) == 2
        assert "pooling mean has no model in transformers to save" in capsys.readouterr().err


def test_only_an_earlier_save_is_replaced(exported, tmp_path):
    problem = opened(tmp_path, "classify")
    pretrained = Pretrained(exported)
    for _ in range(2):
        check_save(tmp_path / "saved")
        save(tmp_path / "saved", pretrained.model(problem, 0), pretrained.tokenizer(), problem)
    with pytest.raises(UserError, match=r"--save .*model holds other files than a model that finetune saved; choose"):
        check_save(exported)
