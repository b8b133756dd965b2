"""What a sweep measures and what it leaves out, rows that are made up, and that a signal ends all of it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from model.errors import UserError
from pretrain.cli.profile import profile as cli_profile
from pretrain.data import Corpus
from pretrain.data.batches import TrainingData
from pretrain.profile import memory_limit, verb
from pretrain.profile.measurement import OUT_OF_MEMORY, Measurement
from pretrain.profile.rows import with_rows
from pretrain.profile.sweep import Sweep, read_axes
from pretrain.profile.verb import Profile
from pretrain.recipe import load_recipe

STEP = Measurement(
    *(1, 1, 1, 1, 8, 1, 128, "fp32", "a shape"),
    step_seconds=[0.1],
    tokens_per_step=100,
    useful_flops_per_step=1e9,
    peak_bytes=2**30,
    predicted_bytes=2**30,
    breakdown=None,
)


def profile(out: Path, *overrides: str, **changes) -> Profile:
    return Profile("mini", ("data.corpus=nowhere", *overrides), **(dict(stage=0, nproc=1, steps=1, out=out) | changes))


@pytest.fixture
def without_corpus(monkeypatch):
    monkeypatch.setattr(Profile, "vocab_size", lambda *_: 64)


def sweep(profile: Profile, text: str) -> dict[str, Measurement]:
    return Sweep(profile, read_axes(text)).run()


def test_a_missing_corpus_is_named_at_once(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        sweep(profile(tmp_path), "micro_batch")


def test_a_sweep_that_leaves_everything_out_is_an_error(tmp_path, capsys, monkeypatch, without_corpus):
    monkeypatch.setattr(Profile, "run", Mock(side_effect=UserError("does not fit")))
    with pytest.raises(UserError, match="--sweep zero: no combination ran"):
        sweep(profile(tmp_path), "zero")
    assert capsys.readouterr().err.count("left out: does not fit") == 4


@pytest.mark.parametrize("code", [130, 143, 129])
def test_a_signal_ends_the_whole_sweep(tmp_path, monkeypatch, code, without_corpus):
    monkeypatch.setattr(verb, "run_here", lambda *_, **__: code)
    with pytest.raises(SystemExit) as end:
        sweep(profile(tmp_path), "micro_batch")
    assert end.value.code == code


def test_a_configuration_that_fails_is_left_out(tmp_path, monkeypatch, capsys, without_corpus):
    monkeypatch.setattr(verb, "run_here", lambda *_, **__: 137)
    with pytest.raises(UserError, match="no combination ran"):
        sweep(profile(tmp_path), "micro_batch=4:8")
    assert capsys.readouterr().err.count("failed (exit code 137)") == 2


def test_micro_batches_double_until_memory_is_full(tmp_path, monkeypatch, capsys, without_corpus):
    """The rank that runs out of memory tells by its exit code; each result is said as it comes."""
    started = []

    def start(self, command, nproc, log):
        given = [word for word in command if word.startswith("stages.0.batch")]
        started.append(given)
        if "stages.0.batch.micro=32" in given:
            return OUT_OF_MEMORY
        Path(command[command.index("--out") + 1]).write_text(json.dumps(asdict(STEP)))
        return 0

    monkeypatch.setattr(Profile, "_start", start)
    found = sweep(profile(tmp_path, nproc=2), "micro_batch=8:512")
    assert list(found) == ["micro_batch 8", "micro_batch 16"]
    assert started[1:] == [
        ["stages.0.batch.micro=16", "stages.0.batch.global=32"],
        ["stages.0.batch.micro=32", "stages.0.batch.global=64"],  # mini has 32 rows, too few for two ranks of 32
    ]
    said = capsys.readouterr()
    assert "micro_batch 16: 100.0 ms, 1,000 tokens/s, 1,024 MiB a rank" in said.out
    assert said.err == "micro_batch 32: left out: memory does not hold it\n"


def test_on_cpus_a_sweep_stops_where_plan_says_that_memory_ends(tmp_path, monkeypatch, capsys, without_corpus):
    monkeypatch.setattr(Profile, "_start", Mock(side_effect=AssertionError("nothing is started")))
    monkeypatch.setattr(memory_limit, "free_bytes", lambda: 2**29)
    with pytest.raises(UserError, match="no combination ran"):
        sweep(profile(tmp_path), "micro_batch=8:32")
    said = capsys.readouterr().err
    assert re.fullmatch(r"micro_batch 8: left out: it would need about 0\.\d GiB, more than the 0.5 GiB .*\n", said)


def test_a_zero_sweep_keeps_the_rest_of_the_deepspeed_file(tmp_path, monkeypatch, without_corpus):
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}, "wall_clock_breakdown": true}')
    measured = Sweep(profile(tmp_path / "out", f"deepspeed={own}"), read_axes("zero=2"))
    (change,) = measured.overrides({"zero": 2})
    written = json.loads(Path(change.partition("=")[2]).read_text())
    assert written == {
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000},
        "wall_clock_breakdown": True,
    }


def test_scaling_says_each_result_as_it_comes(tmp_path, monkeypatch, capsys, without_corpus):
    monkeypatch.setattr(Profile, "run", Mock(return_value=STEP))
    found = profile(tmp_path).scaling([1, 2])
    assert list(found) == ["strong, 1 ranks", "weak, 1 ranks", "strong, 2 ranks", "weak, 2 ranks"]
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == list(found)


def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, without_corpus):
    with pytest.raises(UserError, match="--stage 1: mini has stages 0 to 0"):
        profile(tmp_path, stage=1).run("stage 1")
    with pytest.raises(UserError, match="--sweep and --scaling do not go together"):
        cli_profile("mini", sweep="zero", scaling="1,2", out=tmp_path)
    with pytest.raises(UserError, match="--json is the file of --against"):
        cli_profile("mini", json_file=tmp_path / "rows.json", out=tmp_path)


def test_what_a_sweep_changes():
    assert read_axes("micro_batch=8:40,zero=1:2,tp=2") == {"micro_batch": [8, 16, 32], "zero": [1, 2], "tp": [2]}
    assert read_axes("zero") == {"zero": [0, 1, 2, 3]}
    for wrong in ("rows", "micro_batch=", "micro_batch=8:x", "micro_batch=0:8", "tp=8:2"):
        with pytest.raises(UserError, match="--sweep"):
            read_axes(wrong)


def test_made_up_rows_have_the_lengths_that_are_asked_for(tmp_path):
    """Also where the recipe draws pairs of sentences and shortens some."""
    overrides = ("data.corpus=nowhere", "data.sentence_pairs=nsp", "data.short_probability=0.5")
    given, line = with_rows("mini", overrides, 0, 1, [32, 128], tmp_path)
    assert "nowhere" not in given[-3] and line == "rows of 32, 128 made-up tokens: as --lengths says"
    data = load_recipe("mini", given).data
    corpus = Corpus.open(data.corpus)
    (batch,) = TrainingData(corpus, "train", 0, 128, data.masking, sampling=data.sampling).next(64, 64, 0, 1)
    assert batch.segments is not None
    assert set(batch.segments.count_nonzero(1).tolist()) == {32, 128}
    with pytest.raises(UserError, match="--lengths 129: a row of this stage has 6 to 128 tokens"):
        with_rows("mini", overrides, 0, 1, [129], tmp_path)


def test_the_corpus_of_the_recipe_is_read_where_it_exists(corpus):
    assert with_rows("mini", (f"data.corpus={corpus}",), 0, 1, [], Path("nowhere")) == (
        (f"data.corpus={corpus}",),
        None,
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("can't allocate memory")])
def test_a_rank_tells_that_its_memory_is_full(monkeypatch, error):
    monkeypatch.setattr("os._exit", Mock(side_effect=SystemExit))
    with pytest.raises(SystemExit), memory_limit.out_of_memory_is_told():
        raise error
    os._exit.assert_called_once_with(OUT_OF_MEMORY)


def test_other_errors_of_a_rank_stay_what_they_are(monkeypatch):
    monkeypatch.setattr("os._exit", Mock(side_effect=AssertionError("memory is not full")))
    with pytest.raises(RuntimeError, match="shapes"), memory_limit.out_of_memory_is_told():
        raise RuntimeError("shapes differ")


def test_a_signal_ends_a_measurement_though_torchrun_ignores_it():
    """`--help` answers after the signals are set; their handlers are then read in the same process."""
    code = """
import runpy, signal
for name in ("SIGTERM", "SIGHUP"):
    signal.signal(signal.Signals[name], signal.SIG_IGN)
try:
    runpy.run_module("pretrain.profile.measure", run_name="__main__", alter_sys=True)
except SystemExit:
    print(*[signal.getsignal(signal.Signals[name]) == signal.SIG_DFL for name in ("SIGTERM", "SIGHUP")])
"""
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["True True"], done.stderr
