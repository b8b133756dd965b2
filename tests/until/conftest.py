from pathlib import Path

import pytest

from tests.little import little_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return little_corpus(tmp_path_factory.mktemp("little")).directory
