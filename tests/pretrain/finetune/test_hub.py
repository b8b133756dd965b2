"""Without --data the data comes from the Hub; where that fails, one line says what to give instead."""

import logging
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from model.errors import UserError
from pretrain.__main__ import main
from pretrain.finetune.run import open_task

GLUE = {
    "train": [{"premise": "It rains.", "hypothesis": "It is wet.", "label": 0, "idx": 0}],
    "validation_matched": [{"premise": "It rains.", "hypothesis": "It is dry.", "label": 2, "idx": 0}],
    "validation_mismatched": [{"premise": "It snows.", "hypothesis": "It is cold.", "label": 1, "idx": 0}],
}
SQUAD = {
    "id": "1",
    "question": "What falls?",
    "context": "Rain falls.",
    "answers": {"text": ["Rain"], "answer_start": [0]},
}


@pytest.fixture(autouse=True)
def nothing_is_stored(tmp_path, monkeypatch) -> Path:
    """Whatever this machine has; the folder that `datasets` keeps data in."""
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, repo_type: None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path


def test_glue_and_squad_as_the_hub_has_them(monkeypatch):
    held = {
        ("nyu-mll/glue", "mnli"): GLUE,
        ("rajpurkar/squad_v2", None): {
            "train": [SQUAD],
            "validation": [{**SQUAD, "answers": {"text": [], "answer_start": []}}],
        },
    }
    monkeypatch.setattr(huggingface_hub, "dataset_info", lambda name, timeout: name)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: held[name, config])
    mnli = open_task("mnli", None, None)
    assert mnli.train[0].sentences == ("It rains.", "It is wet.")
    assert {name: examples[0].label for name, examples in mnli.dev.items()} == {"dev_matched": 2, "dev_mismatched": 1}
    squad = open_task("squad2", None, None)
    assert squad.train[0].answers == ("Rain",)
    assert squad.has_unanswerable


def test_without_a_network_one_line_says_what_to_give_without_many_tries(monkeypatch):
    def offline(name, timeout):
        raise ConnectionError("could not reach the Hub\nand much more")

    monkeypatch.setattr(huggingface_hub, "dataset_info", offline)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("this would try again and again"))
    for task, files in (("cola", "the files of CoLA"), ("squad", "train-v1.1.json and dev-v1.1.json")):
        with pytest.raises(UserError, match="downloaded from the Hub .could not reach the Hub.; download") as caught:
            open_task(task, None, None)
        assert files in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_stored_needs_no_network_and_tries_are_not_told(monkeypatch, caplog):
    def load(name, config):
        hub.warning("Retrying in 8s")
        return {"train": [SQUAD], "validation": [SQUAD]}

    hub = logging.getLogger("huggingface_hub")
    caplog.set_level(logging.INFO, hub.name)
    hub.addHandler(caplog.handler)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, repo_type: "README.md")
    monkeypatch.setattr(huggingface_hub, "dataset_info", lambda *_, **__: pytest.fail("this needs a network"))
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert open_task("squad", None, None).train[0].answers == ("Rain",)
    hub.removeHandler(caplog.handler)
    assert not caplog.records
    assert hub.level == logging.INFO


class Mrpc(datasets.GeneratorBasedBuilder):
    """What `load_dataset` makes of the Hub's files: Arrow files in a folder of their name."""

    def _info(self):
        text = datasets.Value("string")
        label = datasets.ClassLabel(names=["not_equivalent", "equivalent"])
        return datasets.DatasetInfo(features=datasets.Features({"sentence1": text, "sentence2": text, "label": label}))

    def _split_generators(self, _):
        return [datasets.SplitGenerator(split) for split in (datasets.Split.TRAIN, datasets.Split.VALIDATION)]

    def _generate_examples(self):
        yield 0, {"sentence1": "It rains.", "sentence2": "It pours.", "label": 1}


def test_what_datasets_keeps_is_had_offline(nothing_is_stored, monkeypatch):
    def offline(name, timeout):
        raise ConnectionError("offline mode is enabled")

    Mrpc(str(nothing_is_stored), "glue", "mrpc", hash="0", repo_id="nyu-mll/glue").download_and_prepare()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "dataset_info", offline)
    assert open_task("mrpc", None, None).train[0].sentences == ("It rains.", "It pours.")
    with pytest.raises(UserError, match="nyu-mll/glue cannot be downloaded .*offline mode is enabled.; download"):
        open_task("cola", None, None)


def test_an_unknown_grid_is_one_line(capsys):
    assert main(["finetune", "runs/x", "--task", "sst2", "--grid", "devlim"]) == 2
    assert "grid 'devlim' is unknown (did you mean 'devlin'?)" in capsys.readouterr().err
