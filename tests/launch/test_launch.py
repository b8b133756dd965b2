"""launch.sh against a stand-in for Python that records what it is asked to run: set-up once, recovery, one exec."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.home import HOME

STAND_IN = """#!/bin/bash
case "$*" in "-c "*) exit "${CHECK_EXIT:-0}" ;; -V) echo "Python 3.8.0"; exit ;; "-m pip --version") exit ;; esac
echo "$*" >>"$LOG"
case "$*" in
  "-m venv"*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m pip install"*) exit "${PIP_EXIT:-0}" ;;
esac
"""


class Clone:
    """A fresh copy of the project's entry, and a record of the commands that it ran."""

    def __init__(self, folder: Path):
        self.folder = folder / "a clone"
        self.folder.mkdir()
        for file in ("launch.sh", "pyproject.toml"):
            shutil.copy(HOME / file, self.folder)
        (self.folder / "pretrain").mkdir()
        self.log = folder / "log"
        self.python = folder / "python3"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)

    def launch(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        self.log.write_text("")
        inherited = {"HOME": os.environ["HOME"], "PATH": os.environ["PATH"]}
        environment = {**inherited, "PYTHON": str(self.python), "LOG": str(self.log), **environment}
        return subprocess.run(
            [self.folder / "launch.sh", *arguments],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def commands(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_the_first_start_installs_and_the_second_does_not(clone):
    assert clone.launch("plan", "base").returncode == 0
    assert [command.split()[:3] for command in clone.commands] == [
        ["-m", "venv", "--clear"],
        ["-m", "pip", "install"],
        ["-m", "pretrain", "plan"],
    ]
    assert clone.launch("plan", "base").returncode == 0
    assert clone.commands == ["-m pretrain plan base"]


def test_a_changed_pyproject_installs_again_into_the_same_environment(clone):
    clone.launch("plan")
    with (clone.folder / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    clone.launch("plan")
    assert [command.split()[1] for command in clone.commands] == ["pip", "pretrain"]


def test_a_broken_install_is_reported_and_redone(clone):
    failed = clone.launch("plan", PIP_EXIT="1")
    assert failed.returncode == 2
    assert "run the same command again to retry" in failed.stderr
    assert clone.launch("plan").returncode == 0
    assert [command.split()[1] for command in clone.commands] == ["pip", "pretrain"]


def test_a_half_made_environment_is_made_again(clone):
    (clone.folder / ".venv" / "bin").mkdir(parents=True)
    assert clone.launch("plan").returncode == 0
    assert clone.commands[0].startswith("-m venv --clear")


def test_an_old_or_missing_python_is_one_line(clone):
    old = clone.launch("plan", CHECK_EXIT="1")
    assert (old.returncode, old.stderr.count("\n")) == (2, 1)
    assert "is Python 3.8.0; Python 3.10 or newer is needed" in old.stderr
    missing = clone.launch("plan", PYTHON="python-of-nowhere")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "python-of-nowhere not found; install Python 3.10 or newer" in missing.stderr


def test_test_installs_its_extras_once_and_passes_arguments_on(clone):
    clone.launch("plan")
    clone.launch("test", "-k", "two words")
    assert clone.commands[0].endswith("[test]")
    assert clone.commands[1] == "-m pytest -k two words"
    clone.launch("test")
    assert clone.commands == ["-m pytest --numprocesses 2"]


@pytest.mark.parametrize(
    "arguments", [["train", "base", "--nproc", "3"], ["demo"], ["compare", "--help"]], ids=" ".join
)
def test_verbs_are_pythons(clone, arguments):
    clone.launch("plan")
    assert clone.launch(*arguments).returncode == 0
    assert clone.commands == [f"-m pretrain {' '.join(arguments)}"]


def test_without_a_verb_it_is_the_demo(clone):
    clone.launch("plan")
    assert clone.launch().returncode == 0
    assert clone.commands == ["-m pretrain demo"]


def test_finetune_installs_what_it_needs_and_help_does_not(clone):
    clone.launch("plan")
    helped = clone.launch("finetune", "--help")
    assert helped.stderr == "" and clone.commands == ["-m pretrain finetune --help"]
    clone.launch("finetune", "runs/x")
    assert clone.commands[-1] == "-m pretrain finetune runs/x" and any("[finetune]" in one for one in clone.commands)


def test_prepare_installs_what_tasks_need_only_for_tasks(clone):
    clone.launch("plan")
    clone.launch("prepare", "text", "--output", "corpus")
    assert clone.commands == ["-m pretrain prepare text --output corpus"]
    clone.launch("prepare", "text", "--near-duplicates", "--output", "corpus")
    assert any("[corpus]" in one for one in clone.commands)


def test_ones_own_python_is_used_as_it_is_and_nothing_is_installed(clone):
    own = clone.folder.parent / "own python"
    shutil.copy(clone.python, own)
    assert clone.launch("plan", "base", ESPALIER_PYTHON=str(own)).returncode == 0
    assert clone.commands == ["-m pretrain.cli.doctor --quiet", "-m pretrain plan base"]
    clone.launch("test", ESPALIER_PYTHON=str(own))
    clone.launch("finetune", "runs/x", ESPALIER_PYTHON=str(own))
    assert clone.commands == ["-m pretrain.cli.doctor --quiet", "-m pretrain finetune runs/x"]
    clone.launch("doctor", ESPALIER_PYTHON=str(own))
    assert clone.commands == ["-m pretrain.cli.doctor"]
    assert not (clone.folder / ".venv").exists()


def test_the_doctor_installs_nothing(clone):
    assert clone.launch("doctor").returncode == 0
    assert clone.commands == ["-m pretrain.cli.doctor"]
    assert not (clone.folder / ".venv").exists()


def test_here_is_the_active_environment(clone):
    active = clone.folder.parent / "active"
    active.mkdir()
    shutil.copy(clone.python, active / "python")
    assert clone.launch("--here", "plan", "base", PATH=f"{active}:{os.environ['PATH']}").returncode == 0
    assert clone.commands == ["-m pretrain.cli.doctor --quiet", "-m pretrain plan base"]
    assert not (clone.folder / ".venv").exists()


def test_ones_own_python_that_does_not_exist_is_one_line(clone):
    missing = clone.launch("plan", ESPALIER_PYTHON="/nowhere/python")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "ESPALIER_PYTHON /nowhere/python not found" in missing.stderr


def test_finetune_installs_its_extra_once(clone):
    clone.launch("plan")
    clone.launch("finetune", "runs/x")
    assert clone.commands[0].endswith("[finetune]")
    clone.launch("finetune", "runs/x")
    assert clone.commands == ["-m pretrain finetune runs/x"]
