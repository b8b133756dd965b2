"""What fine-tuning starts from: a folder's weights or its shape alone, its dropout or another."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from model.errors import UserError
from pretrain.finetune.pretrained import Pretrained
from pretrain.finetune.run import open_task
from pretrain.use.export import export
from tests.support.benchmark_files import write_sst2
from tests.support.run_on_disk import make_corpus, make_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    above = tmp_path_factory.mktemp("exported")
    make_run(above / "run", make_corpus(above / "corpus"))
    return export(above / "run", above / "model")


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return open_task("sst2", write_sst2(tmp_path_factory.mktemp("glue")), None)


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def query(model):
    return model.bert.encoder.layer[1].attention.self.query.weight


def test_the_folders_weights_or_ones_that_the_seed_decides(exported, problem):
    stored = load_file(exported / "model.safetensors")["bert.encoder.layer.1.attention.self.query.weight"]
    one, other = (Pretrained(exported).model(problem, seed) for seed in (0, 1))
    assert torch.equal(query(one), stored) and torch.equal(query(other), stored)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    fresh, same, another = (Pretrained(exported, from_scratch=True).model(problem, seed) for seed in (0, 0, 1))
    assert torch.equal(query(fresh), query(same)) and not torch.equal(query(fresh), query(another))
    assert not torch.equal(query(fresh), stored)
    assert query(fresh).std().item() == pytest.approx(fresh.config.initializer_range, rel=0.1)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(
    "changes",
    [
        dict(classifier_dropout=0.5),
        dict(model_type="esm", pad_token_id=0, mask_token_id=4, token_dropout=False),
        dict(model_type="albert", embedding_size=8, classifier_dropout_prob=0.5),
        dict(model_type="distilbert", dim=32, n_heads=2, n_layers=1, hidden_dim=32, seq_classif_dropout=0.5),
    ],
    ids=["bert", "esm", "albert", "distilbert"],
)
def test_another_dropout_is_everywhere(folder, problem, changes, pooling):
    change_config(folder, **changes)
    model = Pretrained(folder, True, pooling, dropout=0.25).model(problem, 0)
    drops = [layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
    assert len(drops) > 2 and set(drops) == {0.25}
    own = Pretrained(folder, True, pooling).model(problem, 0)
    assert 0.25 not in [layer.p for layer in own.modules() if isinstance(layer, torch.nn.Dropout)]


def test_texts_are_no_longer_than_the_models_positions(folder):
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 10**9}))
    num_positions = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    assert Pretrained(folder).tokenizer().model_max_length == num_positions
    change_config(folder, model_type="roberta", pad_token_id=1)  # whose first position is 2
    assert Pretrained(folder).tokenizer().model_max_length == num_positions - 2


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def forget_padding(folder):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            change = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**change, "pad_token": None}))
    change_config(folder, model_type="gpt2")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: cut(folder / "model.safetensors"), "cannot be opened as a model of transformers"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be opened as a model of transformers"),
        (lambda folder: cut(folder / "config.json"), "cannot be opened as a model of transformers"),
        (lambda folder: cut(folder / "tokenizer.json"), "cannot be opened as a model of transformers"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be opened as a model of transformers"),
        (lambda folder: (folder / "config.json").write_text("5"), "cannot be opened as a model of transformers"),
        (lambda folder: change_config(folder, hidden_size="two"), "cannot be opened as a model of transformers"),
        (lambda folder: change_config(folder, model_type="nonsense"), "cannot be opened as a model of transformers"),
        (lambda folder: change_config(folder, intermediate_size=7), "cannot be opened as a model of transformers"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "has no tokenizer; put"),
        (lambda folder: change_config(folder, vocab_size=7), "entries for a model of 7; put the model's own there"),
        (forget_padding, "has a tokenizer without a padding token; name a model of BERT's kind"),
    ],
    ids=[
        *("weights cut", "no weights", "config cut", "tokenizer cut", "tokenizer {}", "config 5", "config of text"),
        *("family", "sizes", "no tokenizer", "words", "pad"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_one_line(folder, problem, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message) as raised:
        Pretrained(folder).tokenizer(), Pretrained(folder).model(problem, 0)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)


def test_a_model_without_dropout_has_none_to_change(folder, monkeypatch):
    import transformers

    bare = transformers.PretrainedConfig()
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: bare)
    with pytest.raises(UserError, match="config.json has no dropout to set to 0.1; leave it out"):
        Pretrained(folder, dropout=0.1).config()
