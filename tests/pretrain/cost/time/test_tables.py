"""What `plan --on` prints, on consoles of any width."""

import io

import pytest
from rich.console import Console

from model.errors import UserError
from pretrain.cost.time.machine import load_machine
from pretrain.cost.time.run import run_time
from pretrain.cost.time.tables import time_lines, times_table
from pretrain.recipe import load_recipe, resolve
from pretrain.runs import submissions
from pretrain.runs.submissions import read_limit, submission_lines


def planned(recipe: str, num_ranks: int, machine: str = "h100", **changes):
    run = resolve(load_recipe(recipe, ["precision=bf16"]), None, num_ranks)
    return run_time(run, load_machine(machine).model_copy(update=changes))


@pytest.mark.parametrize("width", [80, 120])
def test_no_figure_is_cut_whatever_the_width(width):
    time = planned("compound-base", 8)
    console = Console(width=width, file=io.StringIO())
    console.print(times_table(time))
    text = console.file.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    for each in time.stages:
        assert f"{1e3 * each.step.seconds:,.1f}" in text and f"{each.step.tokens_per_second:,.0f}" in text


def test_the_lines_give_hours_money_disk_and_the_error():
    lines = list(time_lines(planned("compound-base", 16, price=2.5), corpus_bytes=9_000_000_000))
    assert "GPU-hours; at 2.5 each, " in lines[0]
    assert "the run saves" in lines[1]
    assert lines[2] == "disk at most: 3.96 GB of checkpoints, and 9 GB of corpus"  # three checkpoints of 1.32 GB
    assert lines[3].startswith("steps stand still 0.0")
    assert lines[4].startswith("expected error of a step: 40% (")
    assert lines[5].startswith("nobody has measured h100 yet")


def test_a_stage_that_a_gpu_does_not_hold_is_named():
    lines = list(time_lines(planned("lamb-large", 8, memory_gib=8.0), None))
    assert lines[3].startswith("warning: stage short takes 12 GiB of a GPU that has 8: set a smaller batch.micro")


def test_submissions_leave_time_to_start_and_to_save(monkeypatch):
    monkeypatch.delenv("SBATCH_SIGNAL", raising=False)
    time = planned("base", 8)
    (line,) = submission_lines(time, read_limit("2:00:00"))
    usable = 2 * 3600 - 120 - 30
    assert line.startswith(f"jobs of 2 hours: {-(-time.seconds // usable):.0f}, each with 120 s of start")
    assert list(submission_lines(time, None)) == []
    with pytest.raises(UserError, match="--time: 100 s are less than a start and a save take on h100, 150 s"):
        list(submission_lines(time, 100))


def test_a_signal_that_comes_too_late_is_told(monkeypatch):
    monkeypatch.setattr(submissions, "given_seconds", lambda: 1)
    (line,) = submission_lines(planned("lamb-large", 8), None)
    assert "and a signal comes 1 s before the end of a job: give --signal=B:USR1@" in line


@pytest.mark.parametrize(("text", "seconds"), [("24:00:00", 86400), ("2-12:00:00", 216_000), ("90:00", 5400)])
def test_time_limits_are_read_as_slurm_writes_them(text, seconds):
    assert read_limit(text) == seconds


@pytest.mark.parametrize("text", ["24", "soon", "0:00", "1:2:3:4", "-1:00:00"])
def test_other_limits_are_refused(text):
    with pytest.raises(UserError, match="is not a time limit"):
        read_limit(text)
