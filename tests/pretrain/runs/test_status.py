"""`status`: what it tells of folders in every state, and what it makes of damaged ones."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pretrain.__main__ import main
from pretrain.runs import journal, status
from pretrain.runs.history import History
from pretrain.runs.plot import plot_loss
from pretrain.runs.status import read_status
from pretrain.runs.status_text import duration, one_run
from pretrain.training.train import train
from tests.support.tiny import tiny_recipe, train_until
from tests.support.workers import pool

AHEAD = [{"name": "small", "end": 100, "flops": 2e9}, {"name": "large", "end": 150, "flops": 8e9}]
WITHOUT_A_WORD = "it ended without a word: it was killed, or its node was lost"


def lines(first: int, last: int) -> str:
    """Of metrics.jsonl: a step each half second, of 2 GFLOP."""
    same = {"stage": "small", "tokens_per_second": 128.0}
    steps = [
        {"step": step, "loss": 5.0 - step / 100, "flops": 2e9 * step, "seconds": step / 2, **same}
        for step in range(first, last + 1)
    ]
    return "".join(json.dumps(step) + "\n" for step in steps)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run that trains in its first stage and has been started twice."""
    folder = tmp_path / "runs" / "two"
    checkpoint = folder / "checkpoints" / "step-00000040"
    checkpoint.mkdir(parents=True)
    (checkpoint / "SHA256SUMS").write_text("00  index.json\n")
    (checkpoint / "index.json").touch()
    (folder / "checkpoints" / "latest").write_text("step-00000040\n")
    (folder / "metrics.jsonl").write_text(lines(1, 50))
    journal.write(folder, "start", step=0, nodes=2, ranks=16, job="71")
    journal.write(folder, "stage", step=0, stage="small", unit="steps", ahead=AHEAD)
    journal.write(folder, "failure", step=43, cause="node3 is lost", code=69)
    journal.write(folder, "requeued", job="71")
    journal.write(folder, "restart", step=40, nodes=1, ranks=8, job="71", cause="node3 is lost", lost_steps=3)
    journal.write(folder, "stage", step=40, stage="small", unit="steps", ahead=AHEAD)
    monkeypatch.setattr(status, "is_held", lambda folder: True)
    return folder


def test_a_run_that_trains(run):
    found = read_status(run)
    assert found.state == "running"
    assert (found.step, found.num_steps, found.share, found.stage) == (50, 150, 50 / 150, "small")
    assert (found.nodes, found.ranks, found.job) == (1, 8, "71")
    assert found.loss == pytest.approx(5 - 40.5 / 100)  # of the last 20 steps
    assert found.tokens_per_second == 128
    assert found.seconds_left == pytest.approx((50 * 2e9 + 50 * 8e9) / 4e9)  # the later stage's steps are dearer
    assert found.checkpoint.step == 40 and found.checkpoint.age_seconds < 60
    (restart,) = found.restarts
    assert (restart["step"], restart["cause"], restart["lost_steps"]) == (40, "node3 is lost", 3)
    assert found.lost_steps == 3


@pytest.mark.parametrize(
    ("event", "values", "state", "cause"),
    [
        ("preempted", {"cause": "SIGTERM received", "step": 50}, "preempted", "SIGTERM received"),
        ("failure", {"cause": "a rank hung", "code": 70}, "failed", "a rank hung"),
        ("stopped", {"cause": "Ctrl-C"}, "stopped", "Ctrl-C"),
        ("requeued", {"job": "71"}, "waiting", "node3 is lost"),
        ("finished", {"step": 150}, "finished", None),
        ("rollback", {"step": 40, "lost_steps": 2}, "failed", WITHOUT_A_WORD),
    ],
)
def test_a_run_that_nobody_trains_tells_why(run, monkeypatch, event, values, state, cause):
    monkeypatch.setattr(status, "is_held", lambda folder: False)
    journal.write(run, event, **values)
    found = read_status(run)
    assert (found.state, found.cause) == (state, cause)


def test_a_run_that_says_nothing_is_silent(run):
    past = time.time() - 1000
    for path in [*run.rglob("*"), run]:
        os.utime(path, (past, past))
    found = read_status(run)
    assert found.state == "silent"
    assert found.silent_seconds == pytest.approx(1000, abs=60)


def test_a_pilot_is_a_sign_of_life_of_its_run(run):
    past = time.time() - 1000
    pilot = run / "pilots" / "grown"
    pilot.mkdir(parents=True)
    (run / "metrics.jsonl").rename(pilot / "metrics.jsonl")
    (pilot / "recipe.yaml").write_text("steps: 60\n")
    shutil.rmtree(run / "checkpoints")
    (run / "journal.jsonl").unlink()
    journal.write(run, "start", step=0, nodes=2, ranks=16)
    for path in run.iterdir():
        os.utime(path, (past, past))
    found = read_status(run)
    assert (found.state, found.step) == ("running", None)
    assert "pilot       grown, step 50 of 60" in one_run(found)


def test_a_run_starts_and_saves(run):
    journal.write(run, "restart", step=50, nodes=1, ranks=8, cause="SIGTERM received")
    assert read_status(run).state == "starting"
    (run / "checkpoints" / "step-00000050.partial").mkdir()
    assert read_status(run).state == "saving"


def test_a_checkpoint_that_is_not_whole_does_not_count(run):
    newer = run / "checkpoints" / "step-00000048"
    newer.mkdir()
    (newer / "SHA256SUMS").write_text("00  index.json\n00  rank-00000.safetensors\n")
    (newer / "index.json").touch()
    (run / "checkpoints" / "latest").write_text("step-00000048\n")
    assert read_status(run).checkpoint.step == 40


@pytest.mark.parametrize("name", ["journal.jsonl", "metrics.jsonl", "recipe.yaml", "checkpoints/latest"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]\n", b'{"step": "x", "event": 3}\n', b"\xff\xfe\0", b'{"event": "stage"}\n']
)
def test_a_damaged_file_is_no_traceback(run, capsys, name, content):
    (run / name).write_bytes(content)
    assert main(["status", str(run.parent)]) == 0
    assert main(["status", str(run)]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "two" in printed.out


@pytest.mark.parametrize("line", [{"step": 3}, {"step": 3, "loss": "low"}, {"step": 3, "loss": 1, "seconds": None}])
def test_a_line_that_is_no_step_is_no_traceback(run, line):
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    found = read_status(run)
    assert found.state == "unknown" and "cannot be read" in found.cause


def test_several_runs_are_a_table(run, capsys):
    other = run.parent / "one"
    other.mkdir()
    (other / "recipe.yaml").write_text("stages: [{steps: 10}, {steps: 30}]")
    (other / "metrics.jsonl").write_text(lines(1, 4) + '{"step": 5, "st')
    (run.parent / "notes").mkdir()
    assert main(["status", str(run.parent)]) == 0
    heading, _, first, second = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["run", "state", "step"]
    assert first.split()[:2] == ["one", "starting"] and "10.0%" in first
    assert second.split()[:4] == ["two", "running", "50", "33.3%"]
    assert main(["status", str(run.parent), "--json"]) == 0
    assert [each["step"] for each in json.loads(capsys.readouterr().out)] == [4, 50]
    assert main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["restarts"][0]["cause"] == "node3 is lost"


def test_what_is_no_run_is_said_in_one_line(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "none"):
        assert main(["status", str(path)]) == 2
        assert "name a run's folder, or one that holds runs" in capsys.readouterr().err


def test_it_imports_no_torch(run):
    code = (
        "import sys; from pretrain.__main__ import main; main(['status', sys.argv[1]]); print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    assert printed.stdout.splitlines()[-1] == "False", printed


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (75, "1 min 15 s"), (3600, "1 h"), (8000, "2 h 13 min"), (2e5, "2 d 7 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def stopped_killed_and_finished(corpus: Path, folder: Path) -> dict[str, Any]:
    """On each rank: a run that a signal stops, that is killed a little later, and that then comes to its end."""
    recipe = tiny_recipe(corpus, faults={"notify": f'echo "$ESPALIER_MESSAGE" >>{folder.parent}/told'})
    train_until(recipe, folder, 6)
    first = read_status(folder)
    train_until(recipe, folder, 10)
    if os.environ["RANK"] == "0":
        with (folder / "metrics.jsonl").open("a") as file:  # steps that no checkpoint has
            file.write(lines(11, 12))
        entries = journal.read(folder)
        journal.journal_of(folder).write_text("".join(json.dumps(entry) + "\n" for entry in entries[:-1]))
    train(recipe, folder)
    return {"first": first, "last": read_status(folder)}


def test_a_run_keeps_its_journal(corpus, tmp_path):
    found = pool(2).run(stopped_killed_and_finished, corpus, tmp_path / "run")[0]
    first, last = found["first"], found["last"]
    assert first.state == "preempted" and "received: saved at step 6" in first.cause
    assert (first.step, first.num_steps, first.stage, first.ranks) == (6, 30, "tied", 2)
    assert first.seconds_left > 0 and first.checkpoint.step == 6
    assert last.state == "finished" and last.step == 30
    assert [restart["step"] for restart in last.restarts] == [6, 10]
    assert "received: saved at step 6" in last.restarts[0]["cause"]
    assert "ended without a word" in last.restarts[1]["cause"]
    assert last.lost_steps == 2
    assert last.lead_seconds >= 30
    assert "to save" in one_run(first) and "to save" not in one_run(last)
    plot_loss(History.read(tmp_path / "run"), tmp_path / "loss.png")  # pools draw none
    assert (tmp_path / "loss.png").stat().st_size
    told = (tmp_path / "told").read_text().splitlines()
    assert [line.partition(": ")[0] for line in told] == [
        f"{tmp_path / 'run'} was started again at step {step}" for step in (6, 10)
    ]
