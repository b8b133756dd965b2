import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.errors import UserError
from pretrain.data import Corpus
from pretrain.data.inspection import check_corpus, show_samples


@pytest.fixture
def copy(corpus: Corpus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus.directory, tmp_path / "copy"))


def test_a_whole_corpus_passes(corpus: Corpus) -> None:
    checked = check_corpus(corpus.directory)
    assert checked["tokens"] == corpus.split("train").num_tokens + corpus.split("valid").num_tokens
    assert checked["documents"] == 150 and checked["shards"] == 2


def flip_a_token(corpus: Path) -> None:
    tokens = np.fromfile(corpus / "train-00000.bin", np.uint16)
    tokens[7] += 1
    tokens.tofile(corpus / "train-00000.bin")


def announce_more(corpus: Path) -> None:
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["splits"]["valid"]["shards"][0]["num_documents"] += 1
    (corpus / "manifest.json").write_text(json.dumps(manifest))


def exceed_the_vocabulary(corpus: Path) -> None:
    tokens = np.fromfile(corpus / "valid-00000.bin", np.uint16)
    tokens[0] = 60000
    tokens.tofile(corpus / "valid-00000.bin")


def put_in_a_mask(corpus: Path) -> None:
    tokens = np.fromfile(corpus / "valid-00000.bin", np.uint16)
    tokens[0] = Corpus.open(corpus).special.mask
    tokens.tofile(corpus / "valid-00000.bin")


def shorten_the_index(corpus: Path) -> None:
    (corpus / "train-00000.idx").write_bytes((corpus / "train-00000.idx").read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_token, "train-00000.bin has another checksum"),
        (announce_more, "the manifest says"),
        (exceed_the_vocabulary, "holds the token 60000"),
        (put_in_a_mask, "holds special tokens"),
        (shorten_the_index, "bytes"),
    ],
)
def test_damage_is_found_and_named(copy: Path, damage, message: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message):
        check_corpus(copy)


def test_shown_samples_read_like_the_text(corpus: Corpus) -> None:
    samples = list(show_samples(corpus.directory, 3, 64))
    assert len(samples) == 3 and all(sample.startswith("[CLS]") for sample in samples)
    shown = " ".join(samples)
    assert "{" in shown and "##" not in shown.replace(">##", "")
    assert "[MASK]" not in shown and "[PAD]" not in shown
