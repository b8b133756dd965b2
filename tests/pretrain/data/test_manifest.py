import json
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.data import Corpus
from tests.support.corpora import made_up_documents, prepared


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("shards", None, "splits.train.shards: Field required"),
        ("shards", [{"name": "../../x"}], "splits.train.shards.0"),
        ("num_tokens", -1, "splits.train.num_tokens"),
    ],
)
def test_a_damaged_manifest_is_one_line_that_names_the_value(tmp_path: Path, key: str, value, message: str) -> None:
    corpus = prepared(tmp_path, made_up_documents(40))
    train = corpus.manifest["splits"]["train"]
    train.pop(key)
    if value is not None:
        train[key] = value
    (tmp_path / "corpus/manifest.json").write_text(json.dumps(corpus.manifest))
    with pytest.raises(UserError, match=f"is not the manifest of a prepared corpus \\({message}"):
        Corpus.open(tmp_path / "corpus")
