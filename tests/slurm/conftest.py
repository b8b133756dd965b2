from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.little import little_corpus
from tests.slurm.cluster import Cluster


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return little_corpus(tmp_path_factory.mktemp("little")).directory


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    missing = Cluster.missing()
    if missing:
        pytest.skip(missing)
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        started.start()
        yield started
    finally:
        started.stop()
