"""Every kind of tokenizer, through `prepare`: the ids of its own library, on documents in thirteen scripts.

300 documents a kind; ESPALIER_DOCUMENTS=10000 in the environment makes more.
"""

import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from tokenizers import (
    AddedToken,
    BertWordPieceTokenizer,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from model.errors import UserError
from pretrain.data import Corpus, Masking, PrepareOptions, TrainingData, prepare
from pretrain.data.inspection import check_corpus
from pretrain.data.text.tokenizer import train_tokenizer
from pretrain.data.text.worker import text_hash
from pretrain.use.export import export_tokenizer
from tests.support.corpora import made_up_documents
from tests.support.scripts import documents_of_all_scripts

DOCUMENTS = documents_of_all_scripts(int(os.environ.get("ESPALIER_DOCUMENTS", "300")))
SPECIAL_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LibraryIds = Callable[[str], list[int]]


def vocab_txt(folder: Path, lowercase: bool) -> tuple[Path, LibraryIds]:
    """As Google's: with a line that is U+2028, one that is empty, and one that comes twice."""
    texts = [text.lower() for text in DOCUMENTS[:200]] if lowercase else DOCUMENTS[:200]
    words = train_tokenizer("wordpiece", texts, 3000, lowercase).tokens
    path = folder / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in [*words[:20], "\u2028", "", words[30], *words[20:]]), "utf-8")
    return path, ids_of(BertWordPieceTokenizer(str(path), lowercase=lowercase)._tokenizer)


def added_tokens(folder: Path) -> tuple[Path, LibraryIds]:
    library = Tokenizer.from_str(train_tokenizer("wordpiece", DOCUMENTS[:200], 3000, True).content.decode())
    library.add_tokens(["covid19", "New York"])
    library.add_tokens([AddedToken("##ing", single_word=True)])
    library.add_special_tokens(["<ent>"])
    return saved(library, folder)


def byte_bpe(folder: Path, prefix: bool) -> tuple[Path, LibraryIds]:
    """RoBERTa's, and ModernBERT's normaliser."""
    library = Tokenizer(models.BPE())
    library.normalizer = None if prefix else normalizers.NFC()
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=SPECIAL_ROBERTA, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(DOCUMENTS[:200], trainer)
    return saved(library, folder)


def regex_bpe(folder: Path) -> tuple[Path, LibraryIds]:
    """With a pre-tokenizer that no rule of ours knows."""
    library = Tokenizer(models.BPE(unk_token="[UNK]"))
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{L}{1,4}|\s+"), "isolated"), pre_tokenizers.Digits(individual_digits=True)]
    )
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=special, show_progress=False)
    library.train_from_iterator(DOCUMENTS[:200], trainer)
    return saved(library, folder)


def sentencepiece_model(folder: Path, **options) -> tuple[Path, LibraryIds]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in DOCUMENTS[:1000] for line in text.splitlines()),
        model_writer=model,
        **{"vocab_size": 2500, "hard_vocab_limit": False, "character_coverage": 0.98, "minloglevel": 2, **options},
    )
    (folder / "m.model").write_bytes(model.getvalue())
    return folder / "m.model", sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model")).encode


def saved(library: Tokenizer, folder: Path) -> tuple[Path, LibraryIds]:
    library.save(str(folder / "given.json"))
    return folder / "given.json", ids_of(Tokenizer.from_file(str(folder / "given.json")))


def ids_of(library: Tokenizer) -> LibraryIds:
    return lambda text: library.encode(text, add_special_tokens=False).ids


SYMBOLS = ["covid19", "<ent>"]
KINDS = {
    "vocab.txt uncased": (vocab_txt, dict(lowercase=True)),
    "vocab.txt cased": (vocab_txt, dict(lowercase=False)),
    "added tokens": (added_tokens, {}),
    "byte-level BPE": (byte_bpe, dict(prefix=False)),
    "byte-level BPE, prefix": (byte_bpe, dict(prefix=True)),
    "BPE by a regex": (regex_bpe, {}),
    **{
        f"{kind} {name}": (sentencepiece_model, {"model_type": kind, **options})
        for kind in ("unigram", "bpe")
        for name, options in {
            "plain": {},
            "byte fallback": dict(byte_fallback=True),
            "no dummy prefix": dict(add_dummy_prefix=False),
            "user-defined symbols": dict(user_defined_symbols=SYMBOLS),
            "suffix blanks": dict(treat_whitespace_as_suffix=True),
            "nfkc_cf": dict(normalization_rule_name="nmt_nfkc_cf"),
            "identity": dict(normalization_rule_name="identity", remove_extra_whitespaces=False),
        }.items()
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_holds_the_ids_of_the_library(kind: str, tmp_path: Path) -> None:
    """The five special tokens apart, which stay text. And what is exported gives them, too."""
    make, options = KINDS[kind]
    path, library_ids = make(tmp_path, **options)
    texts = [text for text in DOCUMENTS if not any(name in text for name in ("[MASK]", "<s>"))]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    started = time.perf_counter()
    source = str(tmp_path / "text.jsonl")
    prepare(PrepareOptions((source,), tmp_path / "corpus", vocab=path, valid_share=0.1, num_workers=1))
    speed = sum(len(text.encode()) for text in texts) / 1e6 / (time.perf_counter() - started)
    corpus = Corpus.open(tmp_path / "corpus")
    expected = {text: library_ids(text) for text in texts}
    held, wanted = (Counter(map(tuple, ids)) for ids in (documents(corpus), filter(None, expected.values())))
    assert not list((held - wanted).items())[:1] and not list((wanted - held).items())[:1]
    assert corpus.vocab_size > max(map(max, filter(None, expected.values())))

    print(f"{kind}: {speed:.2f} MB/s")
    if "suffix" in kind:
        with pytest.raises(UserError, match="treat_whitespace_as_suffix"):
            export_tokenizer(tmp_path, corpus, 512, 2)
        return
    exported = by_transformers(corpus, texts, tmp_path)
    differing = {text for text, ids in zip(texts, exported, strict=True) if ids != expected[text]}
    if path.suffix == ".model":  # as sentencepiece_json.py says
        print(f"{len(differing)} of {len(texts)} differ in transformers")
        assert len(differing) <= 0.07 * len(texts)
    else:
        assert not differing


def documents(corpus: Corpus) -> list[list[int]]:
    """The ids of every document in the shards, and all documents of a split in their order."""
    found = []
    for name in ("train", "valid"):
        split = corpus.split(name)
        places = split.locate(np.arange(split.num_documents))
        found += [
            split.shards[shard].tokens[start : start + size].tolist()
            for shard, start, size in zip(*places, strict=True)
        ]
    return found


def by_transformers(corpus: Corpus, texts: list[str], folder: Path) -> list[list[int]]:
    transformers = pytest.importorskip("transformers")
    (folder / "exported").mkdir()
    export_tokenizer(folder / "exported", corpus, 512, 2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "exported")
    framed = tokenizer(texts[:1])["input_ids"][0]
    assert [framed[0], framed[-1]] == [corpus.special.cls, corpus.special.sep]
    assert tokenizer.mask_token_id == corpus.special.mask
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", ["byte-level BPE", "BPE by a regex", "unigram suffix blanks", "added tokens"])
def test_stored_words_are_those_of_the_library(kind: str, tmp_path: Path) -> None:
    make, options = KINDS[kind]
    path, _ = make(tmp_path, **options)
    texts = [text.replace("<s>", "").replace("[MASK]", "").strip() for text in DOCUMENTS[:100]]
    texts = [text for text in texts if text]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = str(tmp_path / "text.jsonl")
    prepare(PrepareOptions((source,), tmp_path / "corpus", vocab=path, valid_share=0.1, num_workers=1))
    corpus = Corpus.open(tmp_path / "corpus")
    train = [text for text in texts if text_hash(text.encode()) >= 0.1 * 2**64]
    (shard,) = corpus.split("train").shards
    stored = shard.opens_word(0, len(shard.tokens))
    if path.suffix == ".model":
        pieces = [piece for text in train for piece in sentencepiece_pieces(path, text)]
        assert stored[1:].tolist() == [
            before.endswith("▁") or first
            for before, (_, first) in zip(*[[p for p, _ in pieces], pieces[1:]], strict=False)
        ]
    elif kind == "added tokens":
        assert stored is None  # a token tells it by itself
    else:
        library = Tokenizer.from_file(str(path))
        words = [library.encode(text, add_special_tokens=False).word_ids for text in train]
        assert stored.tolist() == [a != b for each in words for a, b in zip([None, *each], each, strict=False)]


def sentencepiece_pieces(path: Path, text: str) -> list[tuple[str, bool]]:
    """Each piece, and whether it is the document's first."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(text, return_type=str)
    return [(piece, place == 0) for place, piece in enumerate(pieces)]


def test_whole_words_are_masked_where_shards_store_them(tmp_path: Path) -> None:
    path, _ = byte_bpe(tmp_path, prefix=False)
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in made_up_documents(80)))
    prepare(PrepareOptions((str(source),), tmp_path / "corpus", vocab=path, valid_share=0.1, num_workers=1))
    corpus = Corpus.open(tmp_path / "corpus")
    data = TrainingData(corpus, "train", 0, 128, Masking(whole_word=True))
    (batch,) = data.next(64, 64, 0, 1)
    ids = batch.ids.flatten()
    assert len(batch.masked_positions) == pytest.approx(0.15 * int((ids != corpus.special.pad).sum()), rel=0.1)
    hidden = torch.zeros(len(ids), dtype=torch.bool)
    hidden[batch.masked_positions] = True
    ids[batch.masked_positions] = batch.masked_ids
    tokens = [corpus.tokenizer.decode([id]) for id in ids.tolist()]
    inside = [  # letters that follow letters belong to the same word
        place for place in range(1, len(ids)) if tokens[place].isalpha() and tokens[place - 1].strip().isalpha()
    ]
    assert len(inside) > 100 and hidden[inside].any()
    assert all(hidden[place] == hidden[place - 1] for place in inside)


def test_a_missing_or_changed_file_of_words_is_noticed(tmp_path: Path) -> None:
    path, _ = byte_bpe(tmp_path, prefix=False)
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in made_up_documents(80)))
    prepare(PrepareOptions((str(source),), tmp_path / "corpus", vocab=path, valid_share=0.1, num_workers=1))
    check_corpus(tmp_path / "corpus")
    file = tmp_path / "corpus/train-00000.words"
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(UserError, match=r"train-00000\.words has another checksum"):
        check_corpus(tmp_path / "corpus")
    file.unlink()
    with pytest.raises(UserError, match=r"train-00000\.words is missing"):
        check_corpus(tmp_path / "corpus")
