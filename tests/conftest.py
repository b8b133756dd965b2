"""What holds for all tests."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
import torch.distributed as dist
from xdist.remote import Producer

from tests.support.scheduling import WholeFiles, place_in_order
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
    parser.addoption("--fake-gpu", metavar="PYTHON", help="of an environment with CUDA's torch: runs tests/gpu/fake")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_in_order(item.nodeid))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    """What was imported stays: a search for garbage has no need to look through it."""
    gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> WholeFiles:
    return WholeFiles(config, log)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tiny run reads."""
    return tiny_corpus(tmp_path_factory.mktemp("tiny")).directory


@pytest.fixture(autouse=True)
def _is_no_rank() -> Iterator[None]:
    """A test that leaves pytest's own process a rank would make every command that later tests start one, too."""
    yield
    assert not dist.is_initialized() and "WORLD_SIZE" not in os.environ, "this test made pytest's process a rank"
