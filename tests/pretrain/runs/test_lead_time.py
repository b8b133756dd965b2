"""How long before its end a job has to be told."""

from types import SimpleNamespace

import pytest

from pretrain.__main__ import main
from pretrain.runs import journal, lead_time
from pretrain.runs.folder import RunFolder
from pretrain.runs.lead_time import advised_seconds, lead_lines, measured, option_name
from pretrain.training.hooks import lead_time as hook_module
from pretrain.training.hooks.lead_time import LeadTime


@pytest.fixture
def job(monkeypatch):
    """A function that makes this a job with a script and a time limit, as scontrol tells them."""
    monkeypatch.delenv("SBATCH_SIGNAL", raising=False)

    def enter(script: str = "", limit: str = "UNLIMITED") -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "71")
        said = f"JobId=71\n   RunTime=00:00:07 TimeLimit={limit} TimeMin=N/A\n"
        monkeypatch.setattr(lead_time, "_ask", lambda *words: script if "batch_script" in words else said)

    return enter


def test_what_is_advised():
    assert [advised_seconds(*each) for each in ((0.2, 0.1), (20, 1), (100, 31.9))] == [30, 40, 200]


def test_a_signal_that_means_nothing_else():
    assert option_name(["SIGTERM", "SIGINT", "SIGUSR1"]) == "USR1"
    assert option_name(["SIGUSR2", "SIGTERM"]) == "USR2"
    assert option_name(["SIGTERM"]) == "TERM"


@pytest.mark.parametrize(
    ("script", "warned"),
    [
        ("#!/bin/bash\n#SBATCH --nodes=2 --signal=B:USR1@100 --requeue\n", "comes 100 s before"),
        ("#!/bin/bash\n#SBATCH --signal USR1\n", "comes 60 s before"),
        ("#!/bin/bash\n#SBATCH --signal=B:USR1@120\n", None),
        ("#!/bin/bash\nexec ./launch.sh train large\n", None),
    ],
)
def test_a_job_that_is_told_too_late_is_warned(job, script, warned):
    job(script)
    first, *warnings = lead_lines(120, ["SIGTERM", "SIGUSR1"])
    assert first.endswith("for the run to be saved in time: --signal=B:USR1@120")
    assert len(warnings) == bool(warned)
    assert not warned or (warned in warnings[0] and "give it --signal=B:USR1@120" in warnings[0])


@pytest.mark.parametrize(("limit", "warned"), [("00:01:30", True), ("00:02:00", False), ("1-00:00:00", False)])
def test_a_job_that_is_too_short_is_warned(job, limit, warned):
    job(limit=limit)
    _, *warnings = lead_lines(120, ["SIGUSR1"])
    assert ["the time limit of this job is 90 s" in line for line in warnings] == [True] * warned


def test_nothing_is_said_before_it_is_measured(job):
    job(limit="00:00:01")
    assert list(lead_lines(None, ["SIGUSR1"])) == []


def test_a_run_measures_its_longest_step_and_checkpoint(job, tmp_path, monkeypatch, capsys):
    job("#SBATCH --signal=USR1@40")
    clock = iter([108.0, 109.0, 131.0, 132.0, 5000.0, 5010.0])  # steps end; the process began at 100; the next run
    monkeypatch.setattr(LeadTime, "is_first", True)
    monkeypatch.setattr(hook_module, "time", SimpleNamespace(time=lambda: next(clock)))
    monkeypatch.setattr(hook_module.psutil, "Process", lambda: SimpleNamespace(create_time=lambda: 100.0))
    trainer = SimpleNamespace(progress=SimpleNamespace(step=3))
    hook = LeadTime(RunFolder(tmp_path), ["SIGUSR1"])
    hook.on_start(trainer)
    for _ in range(4):
        hook.on_boundary(trainer)
    assert capsys.readouterr().err == "" and measured(tmp_path) is None
    checkpoint = {"event": "checkpoint", "pause_seconds": 1.0, "write_seconds": 7.0}
    hook.on_event(trainer, checkpoint)
    hook.on_event(trainer, checkpoint)  # nothing new
    assert measured(tmp_path) == 50  # (22 + 8) x 1.5, in tens
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "--signal=B:USR1@50" in said[0] and "comes 40 s before" in said[1]

    again = LeadTime(RunFolder(tmp_path), ["SIGUSR1"])
    again.on_start(trainer)
    assert capsys.readouterr().err.splitlines() == said
    again.on_boundary(trainer)
    assert again.step_seconds == 10, "another run before it in the same process took the rest"


def test_plan_says_what_a_run_has_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("shutil.which", lambda program: "/usr/bin/sbatch" if program == "sbatch" else None)
    assert main(["plan", "base"]) == 0
    assert "--signal" not in capsys.readouterr().out
    (tmp_path / "runs" / "base").mkdir(parents=True)
    journal.write(tmp_path / "runs" / "base", "lead", seconds=240)
    assert main(["plan", "base"]) == 0
    assert "--signal=B:USR1@240" in capsys.readouterr().out
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert main(["plan", "base"]) == 0
    assert "--signal" not in capsys.readouterr().out, "there is no SLURM here"
