"""What the check needs: a compiler, and a Python whose torch is built for CUDA."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.gpu.fake.build import headers

TOOLS = {"g++": "g++", "readelf": "binutils"}
"""By the Debian package that has them."""

PACKAGES = ("torch", "deepspeed", "megatron.core", "pytest")
HEADERS = {"cuda_runtime_api.h": "nvidia-cuda-runtime", "nccl.h": "nvidia-nccl-cu13"}
"""By the wheel that has them."""

ADVICE = "name the Python of an environment whose torch is built for CUDA (CONTRIBUTING.md says how to make one)"

FIND = """
import importlib.util, json, sys
def place(name):
    try:
        return list(importlib.util.find_spec(name).submodule_search_locations)[0]
    except (ImportError, AttributeError):
        return None
print(json.dumps({name: place(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True)
class Environment:
    python: str
    site_packages: Path


@cache
def find(python: str) -> Environment:
    """The environment of a Python, by name or path. Raises pytest.UsageError, which says what is missing."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise pytest.UsageError(f"--fake-gpu needs {tool} to build its libraries: apt install {package}")
    given, python = python, os.path.abspath(shutil.which(os.path.expanduser(python)) or python)
    places = _places(python)
    if places is None:
        raise pytest.UsageError(f"--fake-gpu {given}: not a Python; {ADVICE}")
    lacks = [name for name in PACKAGES if places[name] is None]
    if lacks:
        raise pytest.UsageError(f"--fake-gpu {given}: its environment has no {', '.join(lacks)}; {ADVICE}")
    torch = Path(places["torch"])
    if not (torch / "lib" / "libtorch_cuda.so").is_file():
        raise pytest.UsageError(f"--fake-gpu {given}: its torch is built for the CPU; {ADVICE}")
    for header, wheel in HEADERS.items():
        if not any((folder / header).is_file() for folder in headers(torch.parent)):
            raise pytest.UsageError(f"--fake-gpu {given}: no {header}; run `{python} -m pip install {wheel}`")
    return Environment(python, torch.parent)


def _places(python: str) -> dict[str, str] | None:
    """The folder of each package in PACKAGES, or None where there is none; None if this is not a Python."""
    try:
        found = subprocess.run([python, "-c", FIND, *PACKAGES], capture_output=True, text=True, check=True, cwd="/")
        return json.loads(found.stdout)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        return None
