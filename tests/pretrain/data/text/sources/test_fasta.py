"""Proteins: one record a document, residues as ESM-2 numbers them, and a model that learns from them."""

import gzip
import json
import random
from itertools import pairwise

import pytest
import transformers

from model.errors import UserError
from pretrain.data import Corpus, PrepareOptions, prepare
from pretrain.data.text.residues import ALPHABET
from pretrain.data.text.sources import limits
from pretrain.data.text.sources.base import TextFormat
from pretrain.data.text.sources.fasta import Fasta
from pretrain.recipe import Recipe, load_recipe
from pretrain.training.train import train
from pretrain.use.export import export
from tests.support.workers import pool

RECORDS = {"sp|P1 with > in it": "MKTAYIAKQR", "tr|P2": "mkLLVVXB*", "P3": "ACDEFGHIKLMNPQRSTVWY"}


def written(folder, records: dict[str, str], width: int = 7, newline: str = "\n") -> str:
    lines = ["; a comment"]
    for header, sequence in records.items():
        lines += [f">{header}", *(sequence[start : start + width] for start in range(0, len(sequence), width)), ""]
    return newline.join(lines)


def tokens(corpus: Corpus) -> list[str]:
    """The documents of both splits, as text."""
    found = []
    for split in ("train", "valid"):
        for shard in corpus.split(split).shards:
            sentences = [0, *shard.sentence_lengths.cumsum().tolist()]
            starts = [sentences[number] for number in shard.document_sentences.tolist()]
            found += [corpus.tokenizer.decode(shard.tokens[start:end].tolist()) for start, end in pairwise(starts)]
    return sorted(found)


def options(folder, source: str) -> PrepareOptions:
    return PrepareOptions((source,), folder / "corpus", tokenizer="residues", num_workers=1, valid_share=0.3)


@pytest.mark.parametrize("name", ["a.fasta", "a.fa.gz"])
@pytest.mark.parametrize("chunk", [40, 1 << 20])
def test_one_record_is_one_document(tmp_path, monkeypatch, name, chunk):
    monkeypatch.setattr(limits, "CHUNK_BYTES", chunk)  # blocks end in the middle of the file
    records = {**RECORDS, **{f"more {number}": "M" + "AG" * number + "K" for number in range(1, 9)}}
    content = written(tmp_path, records, newline="\r\n" if chunk == 40 else "\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    prepare(options(tmp_path, str(tmp_path / name)))
    corpus = Corpus.open(tmp_path / "corpus")
    assert tokens(corpus) == sorted(sequence.upper().rstrip("*") for sequence in records.values())


def test_an_empty_file_a_byte_order_mark_and_a_record_without_a_header_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CHUNK_BYTES", 8)  # the second record begins a block
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "empty.fa").write_text("")
    (tmp_path / "texts" / "a.fa").write_text("\ufeff>one\nMKTAY\n>\nACDEF\nGHIKL\n>three\nMNPQR\n", "utf-8")
    prepare(options(tmp_path, str(tmp_path / "texts")))
    assert tokens(Corpus.open(tmp_path / "corpus")) == ["ACDEFGHIKL", "MKTAY", "MNPQR"]


@pytest.mark.parametrize("width", [7, 500])
def test_a_record_beyond_the_limit_is_cut_and_loses_no_residue(tmp_path, monkeypatch, width):
    """A cut is no header: neither the line behind it nor, in a record of one line, all the rest."""
    monkeypatch.setattr(limits, "CHUNK_BYTES", 16)
    monkeypatch.setattr(limits, "MAX_DOCUMENT_BYTES", 64)
    long = "".join(random.Random(0).choices("LAGVSERTIDPKQNFYMHWC", k=500))
    (tmp_path / "a.fa").write_text(written(tmp_path, {"long": long, "short": "MKTAY"}, width))
    format = TextFormat()
    blocks = Fasta().read(tmp_path / "a.fa", format)
    pieces = [sequence for block in blocks for sequence in block.documents(format, block.counts)]
    assert "".join(pieces) == long + "MKTAY"
    assert pieces[-1] == "MKTAY"
    assert len(pieces) > 5


def test_the_alphabet_is_that_of_esm_2(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(ALPHABET))
    theirs = transformers.EsmTokenizer(str(tmp_path / "vocab.txt"))
    (tmp_path / "a.fasta").write_text(written(tmp_path, {str(n): "MKT" * n for n in range(1, 20)}))
    prepare(options(tmp_path, str(tmp_path / "a.fasta")))
    vocabulary = Corpus.open(tmp_path / "corpus")
    special = vocabulary.special
    assert (special.cls, special.pad, special.sep, special.unk, special.mask) == (0, 1, 2, 3, 32)
    assert vocabulary.vocab_size == 33
    text = "MKTAYIAKQRXBUZO.-J"
    assert vocabulary.tokenizer.encode(text) == theirs(text)["input_ids"][1:-1]
    assert vocabulary.tokenizer.encode_masked("MK[MASK]T") == theirs("MK<mask>T")["input_ids"][1:-1]


def test_what_is_no_fasta_is_said_in_one_line(tmp_path):
    (tmp_path / "a.fa").write_text("MKTAYIAKQR\n>header\nMK\n")
    with pytest.raises(UserError, match=r"a.fa is no FASTA file: it must begin with a header"):
        prepare(options(tmp_path, str(tmp_path / "a.fa")))
    (tmp_path / "b.fa").write_text(">a\nMK\n")
    with pytest.raises(UserError, match=r"vocab_size 20 is too small; tokenizer residues has 33 tokens"):
        prepare(PrepareOptions((str(tmp_path / "b.fa"),), tmp_path / "out", tokenizer="residues", vocab_size=20))


def test_esm_mini_trains_on_proteins_and_opens_in_transformers(tmp_path):
    draw = random.Random(0)
    motifs = ["".join(draw.choices("LAGVSERTIDPKQNFYMHWC", k=6)) for _ in range(4)]
    records = {str(number): "M" + "".join(draw.choices(motifs, k=draw.randint(3, 9))) for number in range(120)}
    (tmp_path / "a.fasta").write_text(written(tmp_path, records, width=60))
    prepare(options(tmp_path, str(tmp_path / "a.fasta")))
    small = ["model.hidden=32", "model.ffn=64", "model.layers=2", "sequence=64", "steps=60", "validation.rows=16"]
    recipe = load_recipe("esm-mini", [f"data.corpus={tmp_path / 'corpus'}", "precision=fp32", *small])
    assert isinstance(recipe, Recipe)
    pool(1).run(train, recipe, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["valid_loss"] < summary["initial_valid_loss"] - 0.5
    model = transformers.AutoModelForMaskedLM.from_pretrained(export(tmp_path / "run"))
    assert type(model) is transformers.EsmForMaskedLM
