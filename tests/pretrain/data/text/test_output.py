"""The directory that prepare writes into."""

import errno
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.data import Corpus, PrepareOptions, Progress, prepare
from pretrain.data.inspection import check_corpus
from pretrain.data.text import reading
from pretrain.data.text.shards import SplitWriter
from tests.support.corpora import made_up_documents


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    (tmp_path / "text.txt").write_text("\n".join(made_up_documents(40)))
    how = dict(documents="line", vocab_size=200, valid_share=0.3, num_workers=1)
    return PrepareOptions((str(tmp_path / "text.txt"),), tmp_path / "made" / "corpus", **how)


def hold(options: PrepareOptions, begun, end) -> None:
    def wait(_: Progress) -> None:
        begun.set()
        end.wait(60)

    prepare(options, wait)


def test_of_two_at_once_the_second_is_refused(options: PrepareOptions) -> None:
    spawn = multiprocessing.get_context("spawn")
    begun, end = spawn.Event(), spawn.Event()
    first = spawn.Process(target=hold, args=(options, begun, end))
    first.start()
    assert begun.wait(60)
    with pytest.raises(UserError, match=rf"another prepare is at work in .*corpus \(process {first.pid} on "):
        prepare(options)
    end.set()
    first.join()
    assert first.exitcode == 0 and Corpus.open(options.output).split("train").num_documents > 10
    assert not list(options.output.glob("*.lock"))


def test_of_two_at_once_the_second_takes_what_the_first_has_just_made(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ends after the second has looked for a corpus and before it has the lock."""
    found = reading.all_inputs

    def find_while_another_prepares(*sources) -> list[reading.Input]:
        monkeypatch.undo()
        prepare(options)
        return found(*sources)

    monkeypatch.setattr("pretrain.data.text.prepare.all_inputs", find_while_another_prepares)
    manifest = prepare(options)
    assert check_corpus(options.output)["documents"] == sum(
        split["num_documents"] for split in manifest["splits"].values()
    )


def test_a_lock_that_a_killed_one_left_holds_nobody_up(options: PrepareOptions) -> None:
    """Nor does the tokenizer that it left before its first state."""
    options.output.mkdir(parents=True)
    (options.output / "prepare.lock").write_text("process 1 on elsewhere")
    (options.output / "tokenizer.json").write_bytes(b"")
    assert prepare(options)["splits"]["train"]["num_documents"] > 10


def test_a_tokenizer_that_somebody_else_put_there_is_theirs(options: PrepareOptions) -> None:
    options.output.mkdir(parents=True)
    (options.output / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(UserError, match="is not empty and not a corpus"):
        prepare(options)
    assert [file.name for file in options.output.iterdir()] == ["tokenizer.json"]


def full(*_) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["write_bytes", "mkdir"])
def test_a_disk_that_is_full_from_the_beginning_keeps_nothing(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, what, lambda *_, **__: full())
        with pytest.raises(UserError, match=r"cannot write to .*corpus: No space left on device; nothing was kept"):
            prepare(options)
    assert not options.output.exists()
    prepare(options)


def test_a_disk_that_fills_up_is_one_line_and_the_same_command_goes_on(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SplitWriter, "append", full)
        with pytest.raises(UserError, match=r"No space left on device; the same command goes on from there"):
            prepare(options)
    assert prepare(options)["splits"]["train"]["num_documents"] > 10


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "tokenizer.model"])
def test_an_empty_vocabulary_is_one_line(options: PrepareOptions, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"vocabulary .*{name} is empty"):
        prepare(replace(options, vocab=tmp_path / name))
    assert not options.output.exists()


def test_a_damaged_state_is_one_line(options: PrepareOptions) -> None:
    prepare(options)
    (options.output / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json is damaged; remove .*corpus and prepare again"):
        prepare(options)
