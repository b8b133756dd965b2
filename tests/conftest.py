"""What holds for all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
import torch.distributed as dist

from tests.support.home import HOME
from tests.support.tiny import tiny_corpus

# Ranks that tests start compute on the CPU, on a machine with GPUs, too: it may have fewer of them than ranks.
os.environ.setdefault("DS_ACCELERATOR", "cpu")

# A shared machine has slow moments; a deadline for each example would make tests fail by chance.
hypothesis.settings.register_profile("espalier", deadline=None)
hypothesis.settings.load_profile("espalier")

# A shell ignores Ctrl-C for what it runs in the background, and for all that this starts; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--damaged", type=int, default=30, help="damaged inputs of each kind (tests/whole/damaged)")
    parser.addoption("--recipes", type=int, default=1, help="random recipes that are trained (tests/whole/damaged)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        _divide_among_processes(items)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _divide_among_processes(items: list[pytest.Item]) -> None:
    """For `pytest --numprocesses`. A file stays together, for what its tests set up; all of the cluster's do, of which
    there is one. What takes longest begins first: whole runs."""
    items.sort(key=lambda item: "whole" not in item.path.parts)
    for item in items:
        together = item.path.parent if item.path.parent.name == "slurm" else item.path
        item.add_marker(pytest.mark.xdist_group(str(together.relative_to(HOME))))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tiny run reads."""
    return tiny_corpus(tmp_path_factory.mktemp("tiny")).directory


@pytest.fixture(autouse=True)
def _is_no_rank() -> Iterator[None]:
    """A test that leaves pytest's own process a rank would make every command that later tests start one, too."""
    yield
    assert not dist.is_initialized() and "WORLD_SIZE" not in os.environ, "this test made pytest's process a rank"
