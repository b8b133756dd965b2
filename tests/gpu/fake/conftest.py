"""Only a flag runs this check: without it, nothing here is collected."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gpu.fake import environment
from tests.gpu.fake.build import build
from tests.gpu.fake.ranks import Ranks


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fake-gpu"):
        environment.find(config.getoption("--fake-gpu"))  # says what is missing before anything runs


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.getoption("--fake-gpu") else True


@pytest.fixture(scope="session")
def make_ranks(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """Makes two ranks: `make_ranks(on_gpu=True)`."""
    if not pytestconfig.getoption("--fake-gpu"):  # a file named alone is collected all the same
        pytest.skip("needs --fake-gpu PYTHON")
    found = environment.find(pytestconfig.getoption("--fake-gpu"))
    stand_ins = build(found.site_packages, tmp_path_factory.mktemp("stand-ins"))
    with tempfile.TemporaryDirectory(prefix="fake-gpu-", dir="/dev/shm") as mail, ExitStack() as stack:

        def make(on_gpu: bool) -> Ranks:
            ranks = Ranks(2, on_gpu, found.python, stand_ins, Path(mail))
            stack.callback(ranks.stop)
            return ranks

        yield make


@pytest.fixture(scope="session")
def fake_gpus(make_ranks) -> Ranks:
    return make_ranks(on_gpu=True)


@pytest.fixture(scope="session")
def cpus(make_ranks) -> Ranks:
    """With the same torch, since another version draws other initial weights."""
    return make_ranks(on_gpu=False)
