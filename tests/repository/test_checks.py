"""The static checks, one test for each tool. `./launch.sh check` runs this folder alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.home import HOME

SHELL_SCRIPTS = ("launch.sh", ".ci/run", "tests/gpu/session.sh")


def check(*command: str | Path) -> None:
    """Runs a tool in the project's folder, with this checkout's packages. Fails with the tool's own output."""
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{done.stdout}{done.stderr}", pytrace=False)


def test_ruff():
    check(sys.executable, "-m", "ruff", "check", ".")


def test_ruff_format():
    check(sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.timeout(900)
def test_mypy():
    """A minute on one core, seconds once .mypy_cache is there."""
    check(sys.executable, "-m", "mypy")


def test_lint_imports():
    """The order of the rooms, in .importlinter."""
    check(Path(sys.executable).parent / "lint-imports")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck():
    check("shellcheck", *SHELL_SCRIPTS)
