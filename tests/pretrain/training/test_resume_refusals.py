"""What keeps a run from resuming: lost or damaged checkpoints, another vocabulary, damaged metrics. One line each."""

import json
import shutil
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.data import Corpus
from pretrain.runs.history import truncate
from pretrain.training.preflight import check_run
from pretrain.training.train import train
from tests.support.corpora import made_up_documents, prepared
from tests.support.tiny import stop_message, tiny_recipe, train_until
from tests.support.workers import pool

STEPS = [{"name": "a", "steps": 8}]


@pytest.fixture(scope="module")
def stopped(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    pool(1).run(train_until, tiny_recipe(corpus, stages=STEPS), folder, 5)
    return folder


@pytest.fixture
def run(stopped, tmp_path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def refusal(corpus: Path, run: Path) -> str:
    """The line that training stops with, which leaves the metrics as they were."""
    before = (run / "metrics.jsonl").read_text()
    (message,) = pool(1).run(stop_message, train, tiny_recipe(corpus, stages=STEPS), run)
    assert (run / "metrics.jsonl").read_text() == before
    return message


def test_damage_everywhere_stops_the_second_start_too(corpus, run):
    for checkpoint in (run / "checkpoints").glob("step-*"):
        (checkpoint / "index.json").write_text("{}")
    for _ in range(2):
        assert refusal(corpus, run).startswith(f"every checkpoint in {run / 'checkpoints'} is damaged")


def test_checkpoints_that_are_gone_stop_the_start(corpus, run):
    shutil.rmtree(run / "checkpoints")
    assert "has none of the checkpoints that metrics.jsonl tells of (the last is step-00000004)" in refusal(corpus, run)


def test_another_vocabulary_of_the_same_size_is_refused(corpus, run, tmp_path):
    other = prepared(tmp_path, made_up_documents(40, seed=5, longest=20))
    assert other.vocab_size == Corpus.open(corpus).vocab_size
    assert "was made with another vocabulary than checkpoint" in refusal(other.directory, run)


def test_an_index_with_another_progress_is_one_line(corpus, run):
    checkpoint = run / "checkpoints" / "step-00000005"
    index = json.loads((checkpoint / "index.json").read_text())
    index["run"]["progress"]["position"] = 7
    mend(checkpoint, json.dumps(index))
    assert f"checkpoint {checkpoint} is damaged: index.json does not fit" in refusal(corpus, run)


def mend(checkpoint: Path, index: str) -> None:
    """Writes another index and makes its checksum fit."""
    from hashlib import sha256

    sums = (
        (checkpoint / "SHA256SUMS")
        .read_text()
        .replace(sha256((checkpoint / "index.json").read_bytes()).hexdigest(), sha256(index.encode()).hexdigest())
    )
    (checkpoint / "index.json").write_text(index)
    (checkpoint / "SHA256SUMS").write_text(sums)


def test_a_bad_line_in_the_metrics_is_found_before_training(corpus, run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:2], lines[2][:9], *lines[3:]]) + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged: line 3 is not a step or an event"):
        check_run(tiny_recipe(corpus, stages=STEPS), 1, run)


def test_a_torn_last_line_does_not_stay_between_others(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:2], lines[2][:9]]))
    assert truncate(run / "metrics.jsonl", 10) == 2
    assert (run / "metrics.jsonl").read_text() == "\n".join(lines[:2]) + "\n"
