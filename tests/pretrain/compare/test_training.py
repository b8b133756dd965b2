"""Training what a comparison lacks: finished runs are kept, and the end of the minutes ends every process."""

from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.compare import training
from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode
from pretrain.runs.folder import RunFolder
from tests.support.launching import command_line
from tests.support.tiny import write_recipe


def processes_with(word: str) -> list[int]:
    """Those whose command line has the word in it."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if word.encode() in command_line(pid)]


def test_when_the_minutes_are_over_no_rank_trains_on(corpus, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus, stages=[{"name": "long", "steps": 99999}])
    runs = tmp_path / "runs"
    assert training.train_missing(training.read_entries(str(recipe)), 1, [], 0.2, runs, nproc=2) == []
    assert processes_with(str(runs)) == []
    assert "tiny-seed0: out of time; it resumes from its latest checkpoint next time" in capsys.readouterr().err


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The runs that would have been trained; each takes no time and finishes."""
    names = []

    def run_here(module, nproc, seconds):
        names.append(module[module.index("--name") + 1])
        (tmp_path / names[-1]).mkdir()
        RunFolder(tmp_path / names[-1]).summary.touch()
        return 0

    monkeypatch.setattr(training, "run_here", run_here)
    return names


def test_runs_go_round_by_round_and_finished_ones_are_kept(trained, tmp_path):
    (tmp_path / "b-seed0").mkdir()
    (tmp_path / "b-seed0" / "summary.json").touch()
    finished = training.train_missing(training.read_entries("a.yaml,b"), 2, [], 1.0, tmp_path, nproc=1)
    assert [folder.name for folder in finished] == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]
    assert trained == ["a-seed0", "a-seed1", "b-seed1"]


def test_after_an_entry_that_fails_the_others_go_on(trained, monkeypatch, tmp_path, capsys):
    trains = training.run_here

    def run_here(module, nproc, seconds):
        if "b-seed0" in module:
            (tmp_path / "b-seed0" / "logs").mkdir(parents=True)
            return 1
        return trains(module, nproc, seconds)

    monkeypatch.setattr(training, "run_here", run_here)
    training.train_missing(training.read_entries("b,a"), 2, [], 1.0, tmp_path, nproc=1)
    assert trained == ["a-seed0", "a-seed1"]
    said = f"b-seed0 failed (exit code 1); its output is in {tmp_path}/b-seed0/logs; other seeds of b are left out"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "error"),
    [(1, UserError), (ExitCode.PREEMPTED, Stop), (ExitCode.INTERRUPTED, KeyboardInterrupt)],
)
def test_a_comparison_of_which_all_fails_or_one_is_stopped_ends_the_comparison(monkeypatch, tmp_path, code, error):
    monkeypatch.setattr(training, "run_here", lambda *_, **__: code)
    with pytest.raises(error):
        training.train_missing(training.read_entries("a"), 2, [], 1.0, tmp_path, nproc=1)


def test_a_recipe_may_be_compared_at_several_budgets():
    entries = training.read_entries("full.yaml@1000@2_000, stack-mini,mini@0.5h")
    assert [entry.name for entry in entries] == ["full-1000", "full-2_000", "stack-mini", "mini-0.5h"]
    assert [entry.overrides for entry in entries] == [("steps=1000",), ("steps=2_000",), (), ("hours=0.5",)]
    for wrong in ("mini@", "mini@0", "mini@fast", "mini@1000@-2"):
        with pytest.raises(UserError, match="is no budget; write steps, or hours such as 0.5h"):
            training.read_entries(wrong)
