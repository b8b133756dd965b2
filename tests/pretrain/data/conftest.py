import pytest

from pretrain.data import Corpus
from tests.support.corpora import made_up_documents, prepared


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("corpus"), made_up_documents(150))
