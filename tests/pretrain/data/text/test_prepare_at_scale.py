"""Workers, interruptions, duplicates, shards and broken input: none may change or silently thin out a corpus."""

import bz2
import contextlib
import gzip
import json
import lzma
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from model.errors import UserError
from pretrain.data import Corpus, PrepareOptions, Progress, prepare
from pretrain.data.inspection import check_corpus
from pretrain.data.text import vocabulary
from pretrain.data.text.documents import describe
from pretrain.data.text.duplicates import SeenDocuments
from pretrain.data.text.sources import limits
from pretrain.data.text.worker import Worker
from tests.support.corpora import made_up_documents

DOCUMENTS = made_up_documents(300)


SMALL = {"CHUNK_BYTES": 1 << 12, "MAX_DOCUMENT_BYTES": 1 << 16}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in SMALL.items():
        monkeypatch.setattr(limits, name, size)


def options(directory: Path, name: str, **changes) -> PrepareOptions:
    """Prepares everything in `directory`/text into `directory`/`name`."""
    defaults = dict(documents="line", vocab_size=200, valid_share=0.2, num_workers=1)
    return PrepareOptions((str(directory / "text"),), directory / name, **(defaults | changes))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A directory with one of each format; 300 documents."""
    (tmp_path / "text").mkdir()
    lines = [json.dumps({"text": document}) + "\n" for document in DOCUMENTS]
    (tmp_path / "text/a.txt").write_text("\n".join(DOCUMENTS[:100]))
    (tmp_path / "text/b.jsonl").write_text("".join(lines[100:200]))
    (tmp_path / "text/c.jsonl.gz").write_bytes(gzip.compress("".join(lines[200:]).encode()))
    return tmp_path


def content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


def tokens_of(directory: Path) -> np.ndarray:
    return np.concatenate([shard.tokens for shard in Corpus.open(directory).split("train").shards])


def test_the_result_does_not_depend_on_the_number_of_workers(texts: Path) -> None:
    for workers in (1, 2, 3):
        prepare(options(texts, f"out{workers}", num_workers=workers, deduplicate=True))
    assert content(texts / "out1") == content(texts / "out2") == content(texts / "out3")


def prepare_until_killed(options: PrepareOptions, num_chunks: int) -> None:
    """Dies as if by SIGKILL after a number of chunks, and saves its state only after some of them."""
    sys.modules["pretrain.data.text.writing"]._SECONDS_BETWEEN_SAVES = 0.03
    vars(limits).update(SMALL)  # this is a separate process
    left = num_chunks

    def count(progress: Progress) -> None:
        nonlocal left
        left -= progress.phase == "tokens"
        time.sleep(0.01)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    prepare(options, count)


@pytest.mark.parametrize("shard_tokens", [10**9, 5000])
def test_a_killed_prepare_goes_on_to_the_same_result(texts: Path, shard_tokens: int) -> None:
    changes = dict(shard_tokens=shard_tokens, deduplicate=True, document_tokens=100)
    prepare(options(texts, "whole", **changes))
    killed = options(texts, "killed", **changes)
    spawn = multiprocessing.get_context("spawn")
    for num_chunks in (14, 9, 20):
        process = spawn.Process(target=prepare_until_killed, args=(killed, num_chunks))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert json.loads((killed.output / "state.json").read_text())["num_chunks"] > 10
    with pytest.raises(UserError, match="incomplete"):
        Corpus.open(killed.output)
    prepare(killed)
    assert content(texts / "killed") == content(texts / "whole")


def run_in_a_group(options: PrepareOptions) -> None:
    os.setsid()
    prepare_until_killed(options, 5)


def test_workers_end_with_a_killed_parent(texts: Path) -> None:
    grouped = options(texts, "out", num_workers=2)
    process = multiprocessing.get_context("spawn").Process(target=run_in_a_group, args=(grouped,))
    process.start()
    process.join()
    deadline = time.monotonic() + 30
    while alive := members(process.pid):
        assert time.monotonic() < deadline, f"{alive} outlived their parent"
        time.sleep(0.1)


def members(group: int) -> list[psutil.Process]:
    """The processes of a group that still run; one that has ended may stay listed until somebody asks for it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_a_killed_worker_is_one_line(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "tokenize", lambda *_: os._exit(1))
    vocab = texts / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    with pytest.raises(UserError, match="num_workers below 2"):
        prepare(options(texts, "out", num_workers=2, vocab=vocab, allow_unknown=True))


@pytest.fixture
def large_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample is too large for this process."""
    monkeypatch.setattr(vocabulary, "IN_THIS_PROCESS", 0)


def test_a_vocabulary_trained_apart_is_the_same(texts: Path, large_sample: None) -> None:
    prepare(options(texts, "apart"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "IN_THIS_PROCESS", 1 << 40)
        prepare(options(texts, "here"))
    tokenizers = [(texts / name / "tokenizer.json").read_bytes() for name in ("apart", "here")]
    assert tokenizers[0] == tokenizers[1]


def test_mistakes_cross_from_the_other_process(
    texts: Path, large_sample: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="vocab_size 3 is too small"):
        prepare(options(texts, "out", vocab_size=3))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="killed, perhaps for memory; lower vocab_sample_mb 100"):
        prepare(options(texts, "out"))


def test_prepare_runs_in_a_script_from_standard_input(texts: Path) -> None:
    script = f"""
from pathlib import Path
from pretrain.data import PrepareOptions, prepare
from pretrain.data.text import vocabulary

vocabulary.IN_THIS_PROCESS = 0
source, output = {str(texts / "text")!r}, Path({str(texts / "out")!r})
prepare(PrepareOptions((source,), output, documents="line", vocab_size=200, valid_share=0.2, num_workers=2))
"""
    subprocess.run([sys.executable, "-"], input=script, text=True, check=True, timeout=60)
    assert Corpus.open(texts / "out").vocab_size == 200


def test_workers_do_not_wait_for_threads_that_stayed_in_the_parent(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer's threads run here before the workers are forked, and the environment asks for them."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    prepare(options(texts, "one"))
    tokenizer = Corpus.open(texts / "one").tokenizer
    assert len(tokenizer.encode_documents(DOCUMENTS)) == len(DOCUMENTS)
    prepare(options(texts, "two", num_workers=2))
    assert content(texts / "one").keys() == content(texts / "two").keys()


def test_going_on_is_refused_when_options_or_sources_changed(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(progress) -> None:
        if progress.phase == "tokens":
            raise Killed

    with pytest.raises(Killed):
        prepare(options(texts, "out"), kill)
    with pytest.raises(UserError, match="other options"):
        prepare(options(texts, "out", vocab_size=100))
    (texts / "text/a.txt").write_text("more")
    with pytest.raises(UserError, match="sources have changed"):
        prepare(options(texts, "out"))


def test_shards_are_small_and_hold_the_same(texts: Path) -> None:
    prepare(options(texts, "one"))
    manifest = prepare(options(texts, "many", shard_tokens=5000))
    assert len(manifest["splits"]["train"]["shards"]) > 5
    assert np.array_equal(tokens_of(texts / "one"), tokens_of(texts / "many"))
    assert not list((texts / "many").glob("*.lengths")) and check_corpus(texts / "many")
    split = Corpus.open(texts / "many").split("train")
    *_, lengths = split.locate(np.arange(split.num_documents))
    assert lengths.sum() == split.num_tokens


def test_duplicates_are_kept_once(texts: Path) -> None:
    (texts / "text/d.txt").write_text("\n".join([*DOCUMENTS[50:150], "Quite new."]))
    manifest = prepare(options(texts, "out", deduplicate=True))
    assert manifest["left_out_or_repaired"] == {"duplicates": 100}
    assert sum(split["num_documents"] for split in manifest["splits"].values()) == 301


def test_hashes_are_remembered_on_disk_and_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.data.text.duplicates._RUN_LENGTH", 50)
    draw = np.random.default_rng(0)
    seen, known = SeenDocuments(tmp_path / "seen.hashes"), set()
    for _ in range(40):
        hashes = draw.integers(0, 400, 30).astype(np.uint64)
        expected = []
        for value in hashes.tolist():
            expected.append(value not in known)
            known.add(value)
        assert seen.are_new(hashes).tolist() == expected
    assert len(seen) == len(known)
    again = SeenDocuments(tmp_path / "seen.hashes", num_known=100)
    assert len(again) == 100 and again.are_new(np.arange(400, dtype=np.uint64)).sum() == 300
    again.remove()
    assert not list(tmp_path.iterdir())


def test_length_filter(texts: Path) -> None:
    manifest = prepare(options(texts, "out", min_tokens=50, max_tokens=300))
    left_out = manifest["left_out_or_repaired"]
    kept = sum(split["num_documents"] for split in manifest["splits"].values())
    assert left_out["too_short"] > 5 and left_out["too_long"] > 5
    assert kept + left_out["too_short"] + left_out["too_long"] == 300
    split = Corpus.open(texts / "out").split("train")
    *_, lengths = split.locate(np.arange(split.num_documents))
    assert lengths.min() >= 50 and lengths.max() <= 300


GOOD = b'{"text": "Good text."}\n'
BAD_LINES = {
    "bad_json": b'{"text": "no end\n[1, 2]\nnull\n' + b"[" * 5000 + b"\n",
    "missing_column": b'{"body": "text"}\n',
    "no_text": b'{"text": null}\n{"text": 7}\n',
    "empty": b'{"text": ""}\n{"text": "  \\n "}\n',
    "binary": json.dumps({"text": "\x00\x01\x02 \x7f" * 20}).encode() + b"\n",
    "repaired_utf8": b'{"text": "caf\xe9 latin and \\ud800 half, but long enough to be a text for all of that."}\n',
    "oversized_lines": b'{"text": "' + b"x" * 200_000 + b'"}\n',
    "untokenized": '{"text": "\u200b"}\n'.encode(),
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_bad_lines_are_counted_and_the_rest_is_kept(tmp_path: Path, reason: str) -> None:
    (tmp_path / "text").mkdir()
    lines = [json.dumps({"text": document}).encode() + b"\n" for document in DOCUMENTS[:60]]
    (tmp_path / "text/a.jsonl").write_bytes(b"".join(lines[:30]) + BAD_LINES[reason] + b"\n\n" + b"".join(lines[30:]))
    manifest = prepare(options(tmp_path, "out"))
    expected = {"bad_json": 4, "no_text": 2, "empty": 2, "repaired_utf8": 2}.get(reason, 1)
    assert manifest["left_out_or_repaired"] == {reason: expected}
    kept = 60 + (reason == "repaired_utf8")
    assert sum(split["num_documents"] for split in manifest["splits"].values()) == kept


def test_text_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    newlines = {"unix": "\n", "dos": "\r\n", "mac": "\r"}
    for name, newline in newlines.items():
        (tmp_path / f"text/{name}.txt").write_bytes((newline * 2).join(DOCUMENTS[:40]).encode())
    (tmp_path / "text/bom.txt").write_bytes(b"\xef\xbb\xbf" + "\n\n".join(DOCUMENTS[:40]).encode())
    (tmp_path / "text/junk.txt").write_bytes(np.random.default_rng(0).bytes(3000).replace(b"\n", b""))
    (tmp_path / "text/empty.txt").write_bytes(b"")
    (tmp_path / "text/long.txt").write_bytes(" ".join(DOCUMENTS).encode().replace(b". ", b".\n"))
    manifest = prepare(options(tmp_path, "out", documents="blank-line", deduplicate=True))
    left_out = manifest["left_out_or_repaired"]
    assert left_out["duplicates"] == 3 * 40 and left_out["cut_documents"] >= 1
    assert left_out["repaired_utf8"] == 1 and left_out["binary"] == 1


def zstd(text: bytes) -> bytes:
    import pyarrow

    buffer = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(buffer, "zstd") as stream:
        for first in range(0, len(text), 10_000):
            stream.write(text[first : first + 10_000])
            stream.flush()
    return buffer.getvalue().to_pybytes()


COMPRESS = {".gz": gzip.compress, ".bz2": lambda text: bz2.compress(text, 1), ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_and_those_that_break_off(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "text").mkdir()
    text = "\n".join(DOCUMENTS).encode()
    whole = tmp_path / f"text/a.txt{suffix}"
    whole.write_bytes(COMPRESS[suffix](text))
    manifest = prepare(options(tmp_path, "out"))
    assert "broken_files" not in manifest["left_out_or_repaired"]
    num_documents = sum(split["num_documents"] for split in manifest["splits"].values())
    assert num_documents == len(DOCUMENTS)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    manifest = prepare(options(tmp_path, "broken"))
    assert manifest["left_out_or_repaired"]["broken_files"] == 1
    kept = manifest["left_out_or_repaired"]["broken_files_kept"]
    assert 0.3 * len(text) < kept < 0.7 * len(text)
    assert sum(split["num_documents"] for split in manifest["splits"].values()) == text[:kept].count(b"\n") + 1
    assert f"{kept:,} bytes of text kept" in describe(manifest["left_out_or_repaired"])
    with pytest.raises(UserError, match=r"a.txt.* is cut off or damaged after .* bytes of text.*--broken-files keep"):
        prepare(options(tmp_path, "refused", broken_files="refuse"))


@pytest.mark.parametrize(
    "after", [bytes(5000), gzip.compress(b"\nOne more."), b"no gzip"], ids=["zeros", "part", "junk"]
)
def test_what_follows_a_gzip_part_loses_nothing_before_it(tmp_path: Path, after: bytes) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt.gz").write_bytes(gzip.compress("\n".join(DOCUMENTS).encode()) + after)
    manifest = prepare(options(tmp_path, "out"))
    found = sum(split["num_documents"] for split in manifest["splits"].values())
    assert found == len(DOCUMENTS) + (after[:1] == b"\x1f")
    assert manifest["left_out_or_repaired"].get("broken_files", 0) == (after == b"no gzip")


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary", "binary"])
def test_broken_strings_in_parquet_are_repaired(tmp_path: Path, kind: str) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "text").mkdir()
    values = [document.encode() for document in DOCUMENTS[:40]]
    values[7] = b"A caf\xe9 in Latin-1 among texts that are UTF-8. " + values[7]
    column = pyarrow.array(values, pyarrow.binary())
    if kind != "binary":
        column = pyarrow.Array.from_buffers(pyarrow.string(), len(column), column.buffers())
    if kind == "dictionary":
        column = column.dictionary_encode()
    elif kind in ("large_string", "string_view"):
        column = column.cast(getattr(pyarrow, kind)())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "text/a.parquet")
    manifest = prepare(options(tmp_path, "out"))
    assert manifest["left_out_or_repaired"] == {"repaired_utf8": 1}
    assert sum(split["num_documents"] for split in manifest["splits"].values()) == 40


def test_what_is_no_file_or_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    for name, message in {"pipe.txt": "neither a file nor a directory", "loop.txt": "does not exist"}.items():
        with pytest.raises(UserError, match=message):
            prepare(PrepareOptions((str(tmp_path / name),), tmp_path / "out"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("a")

    def refuse(*_) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pretrain.data.text.sources.streams.open", refuse, raising=False)
    with pytest.raises(UserError, match="a.txt cannot be read: Permission denied"):
        prepare(options(tmp_path, "out"))


def test_broken_parquet_and_unknown_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        prepare(options(tmp_path, "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(UserError, match="must end in"):
        prepare(PrepareOptions((str(tmp_path / "notes.md"),), tmp_path / "out"))


def test_a_hugging_face_dataset_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, split: str, streaming: bool):
        asked.append((name, config, split, streaming))
        return iter([{"body": document} for document in DOCUMENTS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    common = dict(text_column="body", dataset_config="20220301.en", num_workers=1, vocab_size=200, valid_share=0.2)
    manifest = prepare(PrepareOptions(("wikipedia",), tmp_path / "out", **common))
    assert set(asked) == {("wikipedia", "20220301.en", "train", True)}
    assert sum(split["num_documents"] for split in manifest["splits"].values()) == len(DOCUMENTS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match="neither a path nor a dataset"):
        prepare(PrepareOptions(("no/such",), tmp_path / "none"))
