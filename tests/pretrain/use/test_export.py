"""Exported folders open in transformers and compute what our model computes, from the text on."""

import io
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model.batch import Batch
from model.bert import BertForPreTraining
from model.errors import UserError
from pretrain.data import Corpus
from pretrain.finetune.pretrained import Pretrained
from pretrain.interop.huggingface_import import import_model
from pretrain.use.export import export
from pretrain.use.fill import Filler, fill_text
from pretrain.use.grow import own_tokenizer
from pretrain.use.trained import open_trained
from tests.support.run_on_disk import generic_weights, make_corpus, make_run

TEXT = "The old river [MASK] near a house."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpora") / "small")


SHAPES = [
    dict(sentence_head=True),
    dict(sentence_head=False, norm="pre"),
    dict(heads=(4, 1), ffn=(10, 48)),
    dict(layers=4, sharing=2),
    dict(layers=0, norm="pre"),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_folder_opens_and_computes_the_same_from_text_to_logits(corpus, tmp_path, shape):
    run = tmp_path / "run"
    config = make_run(run, corpus, **shape)
    folder = export(run)
    assert folder == run / "huggingface"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    inputs = tokenizer(["The old river sings.", TEXT], ["A cat runs.", "Because"], padding=True, return_tensors="pt")
    ids = tokenizer(TEXT)["input_ids"]
    special = corpus.special
    assert [ids[0], ids[-1]] == [special.cls, special.sep]
    assert ids[1:-1] == corpus.tokenizer.encode_masked(TEXT)

    ours = BertForPreTraining(config).eval()
    ours.load_weights(generic_weights(config).__getitem__)
    batch = as_batch(inputs)
    with torch.no_grad():
        hidden = ours.encode(batch)
        logits = ours.mlm(hidden, ours.embeddings.word.weight)[..., : config.vocab_size]
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(model.eval()(**inputs).logits[real], logits[real], atol=2e-5, rtol=1e-5)
        encoder = transformers.AutoModel.from_pretrained(folder).eval()
        torch.testing.assert_close(encoder(**inputs).last_hidden_state[real], hidden[real], atol=2e-5, rtol=1e-5)

    again, weights = import_model(folder)
    assert again == config
    assert all(torch.equal(weight, generic_weights(config)[name]) for name, weight in weights.items())


def as_batch(inputs):
    masked = inputs["input_ids"].flatten()[:1]
    return Batch(
        inputs["input_ids"],
        torch.zeros_like(masked),
        masked,
        types=inputs["token_type_ids"],
        segments=inputs["attention_mask"],
    )


def test_the_fill_mask_pipeline_gives_what_our_own_fill_gives(corpus, tmp_path):
    config = make_run(tmp_path / "run", corpus)
    folder = export(tmp_path / "run", tmp_path / "out")
    guesses = transformers.pipeline("fill-mask", str(folder))(TEXT, top_k=10)
    best = next(guess["token"] for guess in guesses if guess["token"] not in corpus.special.all())
    model = BertForPreTraining(config).eval()
    model.load_weights(generic_weights(config).__getitem__)
    row = corpus.tokenizer.encode_masked(TEXT)
    ((guess, *_),) = Filler(model, corpus).fill([row])
    assert guess.ids[row.index(corpus.special.mask)] == best


@pytest.mark.parametrize("kind", ["unigram", "bpe", "characters"])
def test_tokenizers_of_every_kind_go_along(tmp_path, kind):
    corpus = make_corpus(tmp_path / "small", tokenizer=kind, vocab_size=60)
    make_run(tmp_path / "run", corpus)
    tokenizer = transformers.AutoTokenizer.from_pretrained(export(tmp_path / "run"))
    ids = tokenizer("The old river runs.", "A cat sings.")["input_ids"]
    first, second = (corpus.tokenizer.encode(text) for text in ("The old river runs.", "A cat sings."))
    special = corpus.special
    assert ids == [special.cls, *first, special.sep, *second, special.sep]
    assert tokenizer.mask_token_id == special.mask


def given_sentencepiece(folder: Path) -> Path:
    """With the names that SentencePiece itself gives, and no [MASK]."""
    model = io.BytesIO()
    sentences = ["The old river runs near a house.", "A cat sings in the garden.", "Trees stand by the river."] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    (folder / "given.model").write_bytes(model.getvalue())
    return folder / "given.model"


def given_byte_bpe(folder: Path) -> Path:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(["The old river runs near a house."] * 20, trainer)
    library.save(str(folder / "given.json"))
    return folder / "given.json"


@pytest.mark.parametrize("make", [given_sentencepiece, given_byte_bpe])
def test_a_given_tokenizer_keeps_its_names_and_ids_through_every_verb(tmp_path, make):
    corpus = make_corpus(tmp_path / "small", vocab=make(tmp_path))
    make_run(tmp_path / "run", corpus)
    folder = export(tmp_path / "run")
    tokenizer = Pretrained(folder).tokenizer()  # what fine-tuning uses
    assert tokenizer.mask_token == corpus.tokenizer.special_names[-1] and len(tokenizer) <= corpus.vocab_size
    assert tokenizer("The old river")["input_ids"][1:-1] == corpus.tokenizer.encode("The old river")
    assert tokenizer.special_tokens_map["cls_token"] == "<s>"
    [(_, guess), *_] = fill_text(Filler(open_trained(tmp_path / "run").model, corpus), "The old [MASK] runs.", 1)
    assert guess.startswith("The old ") and guess.endswith(" runs.")
    again = export(tmp_path / "run", tmp_path / "again")
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    own = own_tokenizer(folder)
    assert own.encode("The old river") == corpus.tokenizer.encode("The old river")
    assert own.special == corpus.special


def test_the_model_card_tells_recipe_data_losses_stages_and_changes(corpus, tmp_path):
    make_run(tmp_path / "run", corpus, heads=(4, 1))
    card = (export(tmp_path / "run", tmp_path / "out") / "README.md").read_text()
    front = card.split("---")[1]
    assert "pipeline_tag: fill-mask" in front
    for expected in (
        "# two-stages",
        "40 steps, 40,960 tokens, 4e+09 FLOPs",
        "| licence | CC0 |",
        "| 40 | 40,960 | 3.6000 | 40.0% |",
        "| second | 20 | 2x32 heads 4 ffn 48 |",
        "| stack | 20 | 5.0000 | 5.5000 |",
        "padded with zeros to 4 heads",
        "grow:\n  - identity_layers: {}",
    ):
        assert expected in card, expected


def copied_checkpoint(corpus, folder):
    """A checkpoint outside its run, in a folder whose parent holds another run's metrics."""
    make_run(folder / "run", corpus)
    (folder / "metrics.jsonl").write_text((folder / "run" / "metrics.jsonl").read_text())
    (folder / "copies").mkdir()
    return (folder / "run" / "checkpoints" / "step-00000040").rename(folder / "copies" / "alone")


def test_a_checkpoint_without_its_run_exports_without_curves(corpus, tmp_path):
    card = (export(copied_checkpoint(corpus, tmp_path), tmp_path / "out") / "README.md").read_text()
    assert "## Stages" not in card
    assert "## Recipe" in card


def test_a_checkpoint_without_its_run_needs_an_output(corpus, tmp_path, monkeypatch):
    checkpoint = copied_checkpoint(corpus, tmp_path)
    monkeypatch.chdir(checkpoint)
    before = sorted(tmp_path.rglob("*"))
    for path in (checkpoint, Path(".")):
        with pytest.raises(UserError, match="is not in a run's folder; say where to write by --output"):
            export(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_of_a_run_exports_into_it_from_everywhere(corpus, tmp_path, monkeypatch):
    make_run(tmp_path / "run", corpus)
    monkeypatch.chdir(tmp_path / "run" / "checkpoints" / "step-00000040")
    assert export(Path(".")) == tmp_path / "run" / "huggingface"


def test_only_an_earlier_export_is_replaced_and_whole(corpus, tmp_path, monkeypatch):
    make_run(tmp_path / "run", corpus)
    folder = export(tmp_path / "run")
    (folder / "README.md").write_text("of the export before")
    monkeypatch.setattr("pretrain.use.export.export_tokenizer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # it fails half-way
        export(tmp_path / "run")
    assert (folder / "README.md").read_text() == "of the export before"
    assert not list(tmp_path.glob("run/.huggingface*"))
    monkeypatch.undo()
    export(tmp_path / "run")
    assert (folder / "README.md").read_text() != "of the export before"

    transformers.AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)  # somebody trained it on
    with pytest.raises(UserError, match="holds other files than a model exported by Espalier; choose another --output"):
        export(tmp_path / "run")
    shutil.rmtree(folder)
    export(tmp_path / "run")
    (folder / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(UserError, match="holds other files than a model exported by Espalier; choose another --output"):
        export(tmp_path / "run")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="holds other files than a model exported by Espalier"):
        export(tmp_path / "run", foreign)
    assert (foreign / "config.json").read_text() == '{"model_type": "bert"}'


def test_all_files_may_be_read_by_the_same_people(corpus, tmp_path):
    make_run(tmp_path / "run", corpus)
    assert {file.stat().st_mode & 0o777 for file in export(tmp_path / "run").iterdir()} == {0o666 & ~umask()}


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_card_says_nothing_of_where_files_lie(corpus, tmp_path):
    make_run(tmp_path / "run", corpus)
    card = (export(tmp_path / "run") / "README.md").read_text()
    assert "| sources | small.txt |" in card
    assert "  corpus: small\n" in card
    assert str(corpus.directory.parent) not in card


def test_mistakes_are_one_line(corpus, tmp_path):
    make_run(tmp_path / "run", corpus, embedding_size=16)
    with pytest.raises(UserError, match="embedding_size 16: transformers has no such model"):
        export(tmp_path / "run")
    full = tmp_path / "full"
    full.mkdir()
    (full / "letters.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files than a model exported"):
        export(tmp_path / "run", full)
