"""What a sweep says when nothing can be measured, and that a signal ends all of it."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from model.errors import UserError
from pretrain.profile import verb
from pretrain.profile.verb import Profile


def profile(corpus: Path, out: Path) -> Profile:
    return Profile("mini", (f"data.corpus={corpus}",), stage=0, nproc=1, steps=1, out=out)


def test_a_missing_corpus_is_named_at_once(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        profile(tmp_path / "nowhere", tmp_path).sweep(["micro_batch"])


def test_a_sweep_that_leaves_everything_out_is_an_error(tmp_path, capsys):
    with (
        patch.object(Profile, "_vocab_size", lambda self: 64),
        patch.object(Profile, "run", side_effect=UserError("does not fit")),
        pytest.raises(UserError, match="--sweep zero: no combination ran"),
    ):
        profile(tmp_path, tmp_path).sweep(["zero"])
    assert capsys.readouterr().err.count("left out: does not fit") == 4


@pytest.mark.parametrize("code", [130, 143, 129])
def test_a_signal_ends_the_whole_sweep(tmp_path, monkeypatch, code):
    monkeypatch.setattr(Profile, "_vocab_size", lambda self: 64)
    monkeypatch.setattr(verb, "run_here", lambda *_, **__: code)
    with pytest.raises(SystemExit) as end:
        Profile("mini", (), stage=0, nproc=1, steps=1, out=tmp_path).sweep(["micro_batch"])
    assert end.value.code == code


def test_a_configuration_that_memory_does_not_hold_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Profile, "_vocab_size", lambda self: 64)
    monkeypatch.setattr(verb, "run_here", lambda *_, **__: 137)
    with pytest.raises(UserError, match="no combination ran"):
        Profile("mini", (), stage=0, nproc=1, steps=1, out=tmp_path).sweep(["micro_batch"])
    assert "failed (exit code 137)" in capsys.readouterr().err


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
