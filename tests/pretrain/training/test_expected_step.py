"""`train` says what the cost model expects of this machine, where that was calibrated, and nothing anywhere else."""

import io
import socket
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from pretrain.cost.time import machine
from pretrain.recipe import Recipe, resolve
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.runs.report import report_data
from pretrain.training.hooks import expected_step
from pretrain.training.hooks.expected_step import ExpectedStep
from pretrain.training.train import train
from tests.support.made_up import made_up_recipe
from tests.support.run_on_disk import history_lines
from tests.support.tiny import tiny_recipe
from tests.support.workers import pool

RATES = {"products": [[64, 64, 64, 1e6]], "attention": [[64, 32, 1e6]]}
IN_A_MINUTE = {
    "about": "computes at once, and spends a minute on each step",
    "error_percent": 10,
    "error_source": "its maker",
    "host_name": socket.gethostname(),
    "device": "cpu",
    "ranks": 1,
    "arithmetic": {"fp32": RATES},
    "gb_per_second": 1e6,
    "host": {"launch_us": 0, "step_ms": 60_000},
    "within": {"latency_us": 0, "gb_per_second": 1e6},
}


def write_machine(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "mine.yaml").write_text(yaml.safe_dump(IN_A_MINUTE | changes), "utf-8")
    return folder


def trained(recipe: Recipe, folder: Path, machines: Path) -> str:
    """What it prints."""
    printed = io.StringIO()
    with patch.object(machine, "OWN", machines), redirect_stdout(printed):
        train(recipe, folder)
    return printed.getvalue()


def test_before_each_stage_and_after_the_run(corpus, tmp_path):
    stages = [{"name": "tied", "steps": 3}, {"name": "untied", "steps": 1, "grow": "unshare"}]
    recipe = tiny_recipe(corpus, precision="fp32", stages=stages, schedule={"warmup": 1}, validation={"rows": 8})
    folder = tmp_path / "run"
    (printed,) = pool(1).run(trained, recipe, folder, write_machine(tmp_path / "machines"))

    lines = printed.splitlines()
    for stage in ("tied", "untied"):
        begins = next(number for number, line in enumerate(lines) if line.startswith(f"stage {stage}: "))
        assert lines[begins + 1] == "expected: 60,000 ms a step (±10%, machine mine)"

    history = History.read(folder)
    milliseconds = 1e3 * median(b["seconds"] - a["seconds"] for a, b in pairwise(history.steps_of("tied")))
    table = report_data(history)["stage_table"]
    assert table["columns"][-2:] == ["ms a step", "expected ms"]
    assert [row[-2:] for row in table["rows"]] == [[pytest.approx(milliseconds, rel=1e-3), 60_000], ["", 60_000]]
    (last,) = [line for line in lines if line.startswith("stage   ")]
    assert last.startswith("stage       tied: ") and "ms a step, 60,000 expected (+" in last
    assert lines.index(last) > begins


SILENT = {
    "another host": {"host_name": "another"},
    "no host": {"host_name": ""},
    "its GPUs": {"device": "gpu"},
    "another precision": {"arithmetic": {"bf16": RATES}},
}


def events(folder: Path, num_ranks: int = 1) -> list[dict[str, Any]]:
    """What the hook says of a stage."""
    said: list[dict[str, Any]] = []
    run = resolve(made_up_recipe("made-up", 10, precision="fp32"), None, num_ranks)
    corpus: Any = SimpleNamespace(manifests=[])
    progress, call = SimpleNamespace(step=0), lambda place, event: said.append(event)
    trainer: Any = SimpleNamespace(run=run, corpus=corpus, progress=progress, call=call)
    hook = ExpectedStep(RunFolder(folder))
    with patch.object(machine, "OWN", folder), patch.object(expected_step, "computes_on_gpu", lambda: False):
        hook.on_start(trainer)
        hook.on_stage(trainer, run.stages[0])
    return said


def test_nothing_is_said_where_no_machine_is_known(tmp_path):
    (known,) = events(write_machine(tmp_path / "known"))
    assert known["seconds"] == pytest.approx(60, rel=1e-3) and known["machine"] == "mine"
    assert events(tmp_path / "none") == []
    assert events(tmp_path / "known", num_ranks=2) == [], "a node of one rank, and no network"


@pytest.mark.parametrize("change", SILENT.values(), ids=SILENT)
def test_nor_of_another_machine(tmp_path, change):
    assert events(write_machine(tmp_path / "machines", **change)) == []


def test_a_report_without_expectations_has_no_column_for_them():
    assert report_data(History(history_lines()))["stage_table"]["columns"][-1] == "tokens/s"
