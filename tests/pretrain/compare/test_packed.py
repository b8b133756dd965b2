"""Runs packed into minutes: in order, none twice, over several starts. Training is made up, by a clock of its own."""

import fcntl
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from pretrain.__main__ import main
from pretrain.compare import results, training, verb
from pretrain.compare.ladder import START_SECONDS
from pretrain.compare.results import Results
from pretrain.compare.small import Small
from pretrain.launch.outcome import ExitCode
from tests.support.made_up import VALIDATION

SPEED = 1e11
"""FLOP/s of the made-up machine."""


class Machine:
    """Trains by its own clock. Four layers end lowest, and two far above them."""

    def __init__(self, step_flops: dict[str, float], runs: Path) -> None:
        self.now, self.runs = 1e9, runs
        self.trained: list[str] = []
        self.compared: tuple = ()
        self.step_flops = step_flops
        self.interrupted_at: int | None = None
        """Ctrl-C in the middle of the run of this number."""
        self.failing = "none"
        """A model that cannot be trained."""
        self.precisions: set[str] = set()
        """Of all that was trained or measured."""

    def time(self) -> float:
        return self.now

    monotonic = time

    def compare(self, folders, out, scale, baseline) -> None:
        self.compared = {folder.name for folder in folders}, scale, baseline

    def measure(self, recipe, overrides, nproc, here) -> float:
        assert here, "the runs are trained on one node"
        self.precisions |= {word for word in overrides if word.startswith("precision=")}
        return SPEED

    def run_here(self, module, nproc, seconds) -> int:
        name = module[module.index("--name") + 1]
        size, steps, seed = re.fullmatch(r"(.*)-(\d+)-seed(\d)", name).groups()
        assert {f"name={size}", f"seed={seed}", f"steps={steps}"} <= set(module)
        self.trained.append(name)
        self.precisions |= {word for word in module if word.startswith("precision=")}
        if size == self.failing:
            self.now += 5
            return 1
        (self.runs / name).mkdir(parents=True, exist_ok=True)
        flops = int(steps) * self.step_flops[size]
        if len(self.trained) == self.interrupted_at:
            self.now += 30
            return ExitCode.INTERRUPTED
        if START_SECONDS + flops / SPEED > seconds:
            self.now += seconds + 1
            return ExitCode.PREEMPTED
        self.now += START_SECONDS + flops / SPEED
        layers, is_grown = int(size[-1]), "hop" in size
        loss = 5 - flops / 1e15 + 0.2 * abs(layers - 4) - 0.01 * is_grown + int(seed) / 1000
        values = dict(flops=flops, tokens=1, seconds=flops / SPEED, device_seconds=1, ranks=1, valid_loss=loss)
        values |= dict(validated_on=VALIDATION.model_dump(), valid_accuracy=0.5, stages=[{"shape": "any"}], growth=[])
        (self.runs / name / "summary.json").write_text(json.dumps(values))
        return ExitCode.DONE


@pytest.fixture(scope="module")
def step_flops(corpus) -> dict[str, float]:
    return {model.name: flops for model, flops in Small((f"data.corpus={corpus}",), 1).step_flops.items()}


@pytest.fixture
def machine(step_flops, tmp_path, monkeypatch):
    machine = Machine(step_flops, tmp_path / "runs")
    monkeypatch.setattr(training, "run_here", machine.run_here)
    monkeypatch.setattr(training, "time", machine)
    monkeypatch.setattr(results, "time", machine)
    monkeypatch.setattr(verb, "compare", machine.compare)
    monkeypatch.setattr("pretrain.profile.trial.trial_flops_per_second", machine.measure)
    return machine


@pytest.fixture
def call(corpus, tmp_path):
    def call(*options: str) -> int:
        places = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
        changes = [f"data.corpus={corpus}", "schedule.warmup=20"]
        return main(["compare", "--scale", "small", *places, *(f"--set={change}" for change in changes), *options])

    return call


def sizes(names: Iterable[str]) -> list[str]:
    return [re.sub(r"-\d+-seed", "/", name) for name in names]


def test_minutes_are_packed_over_several_starts(machine, call, tmp_path):
    began, minutes = machine.now, 60
    machine.interrupted_at = 3
    assert call("--minutes", str(minutes)) == ExitCode.INTERRUPTED
    assert sizes(machine.trained) == ["small-1/0", "small-2/0", "small-4/0"]
    machine.interrupted_at = None
    assert call("--minutes", str(minutes)) == 0
    first = ["small-1/0", "small-2/0", "small-4/0", "small-4/0", "small-8/0"]  # what was cut off goes on
    assert sizes(machine.trained)[:8] == [*first, "small-4/0", "small-2/0", "small-hop-4/0"]
    assert sizes(machine.trained)[8:10] == ["small-4/1", "small-hop-4/1"], "two layers are far behind"
    assert len(set(machine.trained)) == len(machine.trained) - 1
    assert 55 * 60 < machine.now - began <= minutes * 60
    compared, *settings = machine.compared
    assert settings == ["small", ["small-4"]]
    assert sizes(set(machine.trained) - compared) == ["small-4/0"], "one seed at a larger budget"

    num_trained = len(machine.trained)
    assert call("--minutes", str(minutes)) == 0
    assert len(machine.trained) == num_trained, "the minutes are spent"
    assert call("--minutes", str(2 * minutes)) == 0
    assert len(set(machine.trained)) == len(machine.trained) - 1 > num_trained
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines if "valid_loss" in line] == [*machine.trained[:2], *machine.trained[3:]]
    assert sum(line.get("seconds", 0) for line in lines) == pytest.approx(machine.now - began, abs=1)


def test_a_dry_run_starts_and_writes_nothing(machine, call, tmp_path, capsys):
    assert call("--dry-run", "--speed", "1e11", "--minutes", "2") == 0
    shown = capsys.readouterr().out
    rows = re.findall(r"(small-\S+)-\d+-seed(\d) .* (\d+\.\d) .* (yes|no)", shown)
    assert [(name, fits) for name, _, _, fits in rows[:5]] == [
        *(("small-1", "yes"), ("small-2", "yes"), ("small-4", "no"), ("small-8", "no"), ("small-2", "no")),
    ]
    assert "fit into 2 minutes, 0.0 of which are spent, at 1e+11 FLOP/s" in shown
    assert not machine.trained
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("runs/*"))


def test_after_a_run_that_fails_other_models_go_on(machine, call, tmp_path, capsys):
    machine.failing = "small-4"  # of the ladder: without it two layers end lowest
    assert call("--minutes", "60") == 0
    said = capsys.readouterr().err
    first = ["small-1/0", "small-2/0", "small-4/0", "small-8/0", "small-2/0", "small-1/0", "small-hop-2/0"]
    assert sizes(machine.trained)[:7] == first
    assert sizes(machine.trained).count("small-4/0") == 1 and len(machine.trained) > 10
    (failed,) = (name for name in machine.trained if name.startswith("small-4-"))
    message = f"training {failed} failed (exit code 1); its message is above"
    assert f"espalier: {message}" not in said and f"{message}; other models go on" in said
    assert f"failed: {failed}; add --retry-failed" in said and failed not in machine.compared[0]
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    (line,) = (line for line in lines if "failed" in line)
    assert (line["failed"], line["layers"], line["is_grown"], line["seed"]) == (message, 4, False, 0)

    assert call("--minutes", "60", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert re.search(rf"{failed} .* ladder .* failed ", shown) and re.search(
        "small-4-.* larger .* model failed ", shown
    )
    machine.failing, machine.trained[:] = "none", []
    assert call("--minutes", "90") == 0
    assert "small-4" not in {name[:7] for name in machine.trained}, "nobody has asked for it"
    assert call("--minutes", "120", "--retry-failed") == 0
    assert failed in machine.trained and failed in machine.compared[0]


def test_where_everything_fails_each_model_is_tried_once(machine, call, monkeypatch, capsys):
    names = []

    def fails(module, nproc, seconds) -> int:
        names.append(module[module.index("--name") + 1])
        return ExitCode.MISTAKE

    monkeypatch.setattr(training, "run_here", fails)
    for options, number in ((), 5), ((), 5), (("--retry-failed",), 10):
        assert call("--minutes", "60", *options) == 2
        assert len(names) == number
        assert "espalier: no run has finished, and some have failed" in capsys.readouterr().err
    assert len(set(names)) == 5


def test_all_starts_train_in_the_precision_of_the_first(machine, call, tmp_path, monkeypatch, capsys):
    """`precision: auto` may stand for another on another machine."""
    for computes, minutes in ((True, "10"), (False, "20")):
        monkeypatch.setattr("pretrain.recipe.precision.computes_in_bf16", lambda computes=computes: computes)
        assert call("--minutes", minutes) == 0
        assert "FLOPs in bf16, about" in capsys.readouterr().err
    assert machine.precisions == {"precision=bf16"} and len(machine.trained) > 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["precision"] for line in lines if "unit_flops" in line] == ["bf16"]
    assert call("--minutes", "20", "--dry-run") == 0
    assert "precision bf16, as the run was begun; on this machine auto would choose fp32" in capsys.readouterr().out


def test_a_start_that_was_killed_counts_until_its_runs_last_sign_of_life(tmp_path):
    folder, file = tmp_path / "runs" / "small-1-9-seed0", tmp_path / "results.jsonl"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").touch()
    os.utime(folder / "metrics.jsonl", (1040, 1040))
    lines = [{"unit_flops": 1.0, "seconds": 2.0}, {"run": folder.name, "started": 1000.0}]
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"run": "sma')
    assert Results(file, folder.parent, writes=False).spent_seconds == 42
    resumed = Results(file, folder.parent, writes=True)
    resumed.resume()
    os.utime(folder / "metrics.jsonl", (2000, 2000))
    assert resumed.spent_seconds == Results(file, folder.parent, writes=False).spent_seconds == 42


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "--minutes 0 is no time; give more than 0"),
        (["--speed", "-1"], "--speed -1 is no speed; give FLOP/s"),
        (["--dry-run"], "--dry-run starts nothing that could measure the speed; add --speed"),
        (["--set", "steps=9"], "--set steps=9: --scale small sets name, seed, steps"),
        (
            ["--recipes", "mini", "--retry-failed"],
            "--retry-failed goes with --scale small, which trains runs of its own; ",
        ),
        (["--recipes", "mini", "--dry-run"], "--dry-run goes with --scale small, which trains runs of its own; "),
        (["--speed", "1e9", "--scale", "mini"], "--speed goes with --scale small"),
        (["--minutes", "0.1", "--speed", "1e6"], "--minutes 0.1: no run fits, for the shortest takes "),
    ],
)
def test_what_does_not_go_together_is_one_line(machine, call, capsys, options, message):
    assert call(*options) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"espalier: {message}") and said.count("\n") == 1
    assert not machine.trained


def test_a_folder_goes_on_with_its_own_settings_alone(machine, call, tmp_path, capsys):
    assert call("--minutes", "5") == 0
    for _ in range(2):  # it may be of another recipe
        assert call("--minutes", "5", "--output", str(tmp_path / "other")) == 2
        assert "seed0 is a run that " in capsys.readouterr().err
    assert call("--minutes", "9", "--speed", "1e15") == 2
    assert "results.jsonl was begun with --speed 1" in capsys.readouterr().err
    with (tmp_path / "out" / "results.jsonl").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert call("--minutes", "9") == 2
    assert "results.jsonl is written by another start of this comparison; wait" in capsys.readouterr().err
    assert call("--minutes", "9", "--set", "optimizer.lr=1e-3") == 2
    assert "results.jsonl was begun with --set ['data.corpus=" in capsys.readouterr().err
    (tmp_path / "out" / "results.jsonl").write_text("mine\n")
    assert call("--minutes", "9") == 2
    assert "results.jsonl is not of compare --scale small; name another --output" in capsys.readouterr().err


def test_budgets_are_decided_anew_until_the_first_run(machine, call, tmp_path, capsys):
    assert call("--minutes", "0.1") == 2
    assert call("--minutes", "5") == 0
    *decided, _ = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()][:3]
    assert ["unit_flops" in line for line in decided] == [True, True] and machine.trained
