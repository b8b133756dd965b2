"""What `prepare` is given, and what it made: texts, tokenizers, manifests."""

import bz2
import gzip
import json
import lzma
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet

from pretrain.data.text.tokenizer import train_tokenizer
from tests.support.corpora import made_up_documents
from tests.support.damage import Draw, Kind, damage_bytes, damage_json
from tests.support.run_on_disk import make_corpus

COMPRESSED = ("jsonl.gz", "jsonl.bz2", "jsonl.xz", "jsonl.zst")
FILES = [f"texts/a.{ending}" for ending in ("txt", "jsonl", "parquet", "idx", *COMPRESSED)]
VOCABULARIES = [f"vocabularies/{name}" for name in ("vocab.txt", "tokenizer.json", "unigram.model")]
TEXTS = made_up_documents(60, longest=4)


def make(folder: Path) -> None:
    """A corpus, vocabularies of every kind, and the same text in files of every kind."""
    make_corpus(folder / "corpus")
    vocabularies, texts = folder / "vocabularies", folder / "texts"
    vocabularies.mkdir(), texts.mkdir()
    shutil.copy(folder / "corpus" / "tokenizer.json", vocabularies / "tokenizer.json")
    shutil.copy(folder / "corpus" / "vocab.txt", vocabularies / "vocab.txt")
    (vocabularies / "unigram.model").write_bytes(train_tokenizer("unigram", TEXTS, 100, True).content)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    (texts / "a.txt").write_bytes("\n\n".join(TEXTS).encode())
    (texts / "a.jsonl").write_bytes(lines)
    for ending, compress in {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.items():
        (texts / f"a.jsonl{ending}").write_bytes(compress(lines))
    with pyarrow.CompressedOutputStream(str(texts / "a.jsonl.zst"), "zstd") as stream:
        stream.write(lines)
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), texts / "a.parquet")
    for suffix in (".bin", ".idx"):
        shutil.copy(folder / "corpus" / f"train-00000{suffix}", texts / f"a{suffix}")


def damage_text(draw: Draw, folder: Path) -> str:
    """Leaves the damaged file in `given`."""
    file = draw.choice(sorted((folder / "texts").iterdir()))
    how = damage_bytes(draw, file)
    give(folder, file)
    return how


def give(folder: Path, file: Path) -> None:
    (folder / "given").mkdir()
    both = (".bin", ".idx")
    for each in [file.with_suffix(suffix) for suffix in both] if file.suffix in both else [file]:
        shutil.copy(each, folder / "given")


def damage_vocabulary(draw: Draw, folder: Path) -> str:
    """Leaves the damaged file in `given`."""
    file = draw.choice(sorted((folder / "vocabularies").iterdir()))
    by_value = file.suffix == ".json" and draw.random() < 0.7
    how = damage_json(draw, file, draw.randint(1, 2)) if by_value else damage_bytes(draw, file)
    give(folder, file)
    return how


def damage_manifest(draw: Draw, folder: Path) -> str:
    file = folder / "corpus" / "manifest.json"
    return damage_bytes(draw, file) if draw.random() < 0.3 else damage_json(draw, file, draw.randint(1, 2))


def prepare_given(folder: Path) -> list[str]:
    vocab = folder / "corpus" / "tokenizer.json"
    return _prepare(folder, folder / "given", vocab)


def prepare_with_given(folder: Path) -> list[str]:
    (vocab,) = (folder / "given").iterdir()
    return _prepare(folder, folder / "texts" / "a.txt", vocab)


def _prepare(folder: Path, source: Path, vocab: Path) -> list[str]:
    how = ["--vocab", str(vocab), "--output", str(folder / "out"), "--num-workers", "1", "--valid-share", "0.3"]
    return ["prepare", str(source), *how, "--allow-unknown"]


def check(folder: Path) -> list[str]:
    return ["prepare", "--check", str(folder / "corpus"), "--show", "1"]


KINDS = (
    Kind("texts", make, damage_text, prepare_given),
    Kind("vocabularies", make, damage_vocabulary, prepare_with_given),
    Kind("manifests", make, damage_manifest, check),
)
