"""What `--fake-gpu` says of an environment that will not do."""

import json
import sys
from pathlib import Path

import pytest

from tests.gpu.fake import environment


def python_with(folder: Path, **places: str) -> str:
    """Something that answers as a Python whose packages are there."""
    script = folder / "python"
    answer = json.dumps(dict.fromkeys(environment.PACKAGES) | places)
    script.write_text(f"#!/bin/sh\necho '{answer}'\n")
    script.chmod(0o755)
    return str(script)


def complaint(python: str) -> str:
    with pytest.raises(pytest.UsageError) as raised:
        environment.find(python)
    return str(raised.value)


@pytest.fixture
def packages(tmp_path, monkeypatch) -> dict[str, str]:
    """All that is needed, but for what makes a torch one for CUDA; on a machine that has no toolkit."""
    monkeypatch.setattr(environment, "headers", lambda site_packages: [site_packages / "include"])
    monkeypatch.setattr(environment, "TOOLS", {"sh": "dash"})
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    return {name: str(tmp_path / name) for name in environment.PACKAGES}


def test_it_is_no_python(tmp_path):
    assert "not a Python" in complaint(str(tmp_path / "nothing"))
    assert "not a Python" in complaint("/bin/ls")


def test_packages_are_missing(tmp_path, packages):
    del packages["deepspeed"]
    assert "has no deepspeed;" in complaint(python_with(tmp_path, **packages))


def test_its_torch_is_for_the_cpu_or_lacks_headers(tmp_path, packages):
    python = python_with(tmp_path, **packages)
    assert "built for the CPU" in complaint(python)
    (tmp_path / "torch" / "lib" / "libtorch_cuda.so").touch()
    assert "no cuda_runtime_api.h; run" in complaint(python)
    (tmp_path / "include").mkdir()
    for header in environment.HEADERS:
        (tmp_path / "include" / header).touch()
    assert environment.find(python) == environment.Environment(python, tmp_path)


def test_there_is_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "needs g++" in complaint(sys.executable)
