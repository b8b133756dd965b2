"""One cluster for all tests of the session; a test that breaks a node or a link leaves it whole to the next."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.home import HOME


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = Cluster.missing()
    if missing:
        pytest.skip(missing)
    shared = [tmp_path_factory.getbasetemp(), HOME, Path(sys.prefix), Path(sys.base_prefix)]
    started = Cluster(tmp_path_factory.mktemp("slurm"), shared=shared)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture
def breakable(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, for tests that need their own nodes."""
    if not cluster.isolated:
        pytest.skip(f"all nodes share one network: {cluster.why_not_isolated}")
    try:
        yield cluster
    finally:
        cluster.restore()
