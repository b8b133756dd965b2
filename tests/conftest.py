"""What holds for all tests."""

from pathlib import Path

import hypothesis
import pytest
import torch

from tests.support.tiny import tiny_corpus

# A shared machine has slow moments; a deadline for each example would make tests fail by chance.
hypothesis.settings.register_profile("espalier", deadline=None)
hypothesis.settings.load_profile("espalier")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tiny run reads."""
    return tiny_corpus(tmp_path_factory.mktemp("tiny")).directory
