"""`prepare --valid`: held-out text of the user's own."""

import json
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.data import Corpus, PrepareOptions, prepare
from pretrain.data.text.console import print_counts
from pretrain.data.text.sources import limits
from tests.support.corpora import made_up_documents

DOCUMENTS = made_up_documents(60, longest=6)
HELD_OUT = [f"Heldoutword number {number}." for number in range(10)]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with text to train on, and in it a file to hold out that repeats three of its documents."""
    monkeypatch.setattr(limits, "CHUNK_BYTES", 1 << 12)
    (tmp_path / "text").mkdir()
    (tmp_path / "text/train.txt").write_text("\n\n".join(DOCUMENTS))
    lines = [json.dumps({"text": document}) + "\n" for document in [*HELD_OUT, *DOCUMENTS[:3]]]
    (tmp_path / "text/own.jsonl").write_text("".join(lines))
    return tmp_path


def options(folder: Path, name: str, **changes) -> PrepareOptions:
    defaults = dict(valid=(str(folder / "text/own.jsonl"),), vocab_size=200, num_workers=1)
    return PrepareOptions((str(folder / "text"),), folder / name, **(defaults | changes))


def test_the_files_are_held_out_and_not_trained_on(text: Path, capsys: pytest.CaptureFixture) -> None:
    manifest = prepare(options(text, "corpus"))
    numbers = {name: split["num_documents"] for name, split in manifest["splits"].items()}
    assert numbers == {"train": len(DOCUMENTS), "valid": len(HELD_OUT) + 3}
    assert manifest["options"]["valid"] == [str(text / "text/own.jsonl")]
    source = manifest["source"]
    assert [Path(name).name for name, _ in source["inputs"]] == ["train.txt"]
    assert [Path(name).name for name, _ in source["held_out"]["inputs"]] == ["own.jsonl"]
    assert "heldoutword" not in Corpus.open(text / "corpus").tokenizer.tokens  # the vocabulary has not seen it
    print_counts(text / "corpus", manifest)
    assert "warning: 3 documents are trained on although their text is held out too" in capsys.readouterr().err
    assert prepare(options(text, "corpus")) == manifest
    with pytest.raises(UserError, match="prepared with other options"):
        prepare(options(text, "corpus", valid=()))


def test_documents_in_both_can_be_left_out_of_the_training(text: Path, capsys: pytest.CaptureFixture) -> None:
    manifest = prepare(options(text, "corpus", deduplicate=True))
    numbers = {name: split["num_documents"] for name, split in manifest["splits"].items()}
    assert numbers == {"train": len(DOCUMENTS) - 3, "valid": len(HELD_OUT) + 3}
    print_counts(text / "corpus", manifest)
    assert "warning" not in capsys.readouterr().err


def test_tasks_hold_out_the_same_bytes(text: Path) -> None:
    plain = prepare(options(text, "plain"))
    assert prepare(options(text, "tasks", executor="local")) == plain
    for file in ("train-00000.bin", "valid-00000.bin"):
        assert (text / "tasks" / file).read_bytes() == (text / "plain" / file).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(valid_share=0.05), "valid_share 0.05 holds out a part of the sources, but valid names .*own.jsonl"),
        (dict(valid=("none.txt",)), "corpus none.txt does not exist"),
        (dict(valid=("text",)), r"--valid holds out every source \(.*text\); name other text to train on"),
        (dict(valid=("empty.txt",)), "none fell into the valid split: look at the files named by --valid"),
    ],
    ids=["share", "missing", "all", "empty"],
)
def test_options_that_contradict_are_refused(
    text: Path, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(text)
    (text / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match=message):
        prepare(options(text, "corpus", **changes))
    assert not (text / "corpus").exists()
