"""The wheel, installed into one folder and used from another: prepare, train on two processes, doctor.

What Espalier depends on comes from this environment, so that the test downloads nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.cli import VERBS
from tests.support.home import HOME

pytestmark = pytest.mark.timeout(600)

SHORT = {"steps": 4, "schedule.warmup": 1, "batch.global": 16, "validation.rows": 16, "sequence": 64}


class Installed:
    """An environment with the wheel in it, and a folder to work in."""

    def __init__(self, folder: Path):
        source, self.site, self.place = folder / "source", folder / "site", folder / "place"
        for entry in (
            "model",
            "growth",
            "pretrain",
            "ds_configs",
            "pyproject.toml",
            "setup.py",
            "README.md",
            "LICENSE",
        ):
            copy = shutil.copytree if (HOME / entry).is_dir() else shutil.copy
            source.mkdir(exist_ok=True)
            copy(HOME / entry, source / entry)
        pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, source)
        (wheel,) = folder.glob("*.whl")
        pip("install", "--no-deps", "--target", self.site, wheel)
        (self.place / "model").mkdir(parents=True)  # one of the user's own, which must not get in the way
        (self.place / "model" / "__init__.py").touch()

    def espalier(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Only the wheel: not this checkout, which other tests put on the path.
        environment = {**os.environ, "PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"}
        script = [sys.executable, str(self.site / "bin" / "espalier")]
        return subprocess.run(
            [*script, *arguments], cwd=self.place, env=environment, capture_output=True, text=True, timeout=580
        )


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_takes_one_name_only(installed):
    assert {path.name for path in installed.site.iterdir()} - {"bin"} == {
        "espalier",
        next(installed.site.glob("espalier_bert-*.dist-info")).name,
    }


def test_help_and_a_mistake(installed):
    helped = installed.espalier("--help")
    assert helped.stdout.startswith("usage: espalier") and all(verb in helped.stdout for verb in VERBS)
    mistaken = installed.espalier("train", "mini", "--nproc", "two")
    assert (mistaken.returncode, mistaken.stderr.count("\n")) == (2, 1)
    assert "see espalier train --help" in mistaken.stderr


def test_a_script_imports_what_is_in_it(installed):
    code = "import espalier; from pretrain.recipe import load_recipe; print(load_recipe('mini').name)"
    environment = {**os.environ, "PYTHONPATH": str(installed.site), "PYTHONSAFEPATH": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=installed.place, env=environment, capture_output=True, text=True)
    assert done.stdout == "mini\n", done.stderr


def test_doctor_knows_what_the_wheel_wants(installed):
    doctor = installed.espalier("doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert re.search(r"^deepspeed +0\.19\.8", doctor.stdout, re.MULTILINE) and "\ntransformers " in doctor.stdout


def test_prepare_and_train_on_two_processes(installed):
    prepared = installed.espalier("prepare", "sotu", "--tokenizer", "characters", "--output", "corpora/mini")
    assert prepared.returncode == 0, prepared.stderr
    overrides = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    trained = installed.espalier("train", "mini", "--nproc", "2", *overrides)
    assert trained.returncode == 0, trained.stderr
    assert "TP 1 x DP 2" in trained.stdout
    assert (installed.place / "runs" / "mini" / "summary.json").is_file()
