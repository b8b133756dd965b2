"""RoBERTa, DistilBERT and ALBERT of transformers, imported as the BERT that computes the same."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import transformers

from model.batch import Batch
from model.bert import BertForPreTraining
from model.errors import UserError
from pretrain.interop.families import albert
from pretrain.interop.huggingface_import import import_model

PLAIN = dict(vocab_size=90, hidden_size=32, num_attention_heads=4, intermediate_size=48)
CONFIGS = {
    "bert": transformers.BertConfig(**PLAIN, num_hidden_layers=2, max_position_embeddings=20),
    "roberta": transformers.RobertaConfig(
        **PLAIN, num_hidden_layers=2, max_position_embeddings=22, type_vocab_size=1, pad_token_id=1
    ),
    "xlm-roberta": transformers.XLMRobertaConfig(
        **PLAIN, num_hidden_layers=1, max_position_embeddings=23, type_vocab_size=1, pad_token_id=2
    ),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=90, dim=32, n_heads=4, n_layers=2, hidden_dim=48, max_position_embeddings=20
    ),
    "albert-one-group": transformers.AlbertConfig(
        **PLAIN, num_hidden_layers=3, embedding_size=16, max_position_embeddings=20
    ),
    "albert-two-groups": transformers.AlbertConfig(
        **PLAIN, num_hidden_layers=4, num_hidden_groups=2, embedding_size=24, max_position_embeddings=20
    ),
}


def saved(config, folder, seed: int = 0) -> torch.nn.Module:
    """A model of transformers whose every weight is noise, written to `folder`."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.double()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_transformers(name, tmp_path):
    notes: list[str] = []
    reference = saved(CONFIGS[name], tmp_path)
    config, weights = import_model(tmp_path, note=notes.append)
    model = BertForPreTraining(config).double().eval()
    model.load_weights(lambda name: weights[name].double())
    ids = torch.randint(5, 90, (3, 17))
    with torch.no_grad():
        hidden = model.encode(Batch(ids, torch.arange(ids.numel()), ids.flatten())).flatten(0, 1)
        ours = model.mlm(hidden, model.embeddings.word.weight)[:, :90].view(3, 17, 90)
        theirs = reference(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    assert notes == []


@pytest.mark.parametrize("name", ["roberta", "distilbert", "albert-one-group"])
def test_a_bare_encoder_gets_a_fresh_head_and_says_so(name, tmp_path):
    transformers.AutoModel.from_config(CONFIGS[name]).save_pretrained(tmp_path)
    notes: list[str] = []
    import_model(tmp_path, note=notes.append)
    assert any("has no mlm" in note and "drawn afresh" in note for note in notes)


def test_groups_of_several_blocks_are_refused():
    with pytest.raises(UserError, match="inner_group_num 2 cannot be imported: only 1"):
        albert({"inner_group_num": 2}, {})


def test_an_output_layer_of_its_own_is_refused(tmp_path):
    config = transformers.BertConfig(**PLAIN, num_hidden_layers=1, tie_word_embeddings=False)
    saved(config, tmp_path)
    with pytest.raises(UserError, match=r"decoder.weight differs from bert.embeddings.word_embeddings.weight"):
        import_model(tmp_path)


def without(folder, name: str) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in state.items() if key != name}, folder / "model.safetensors")


def test_a_bias_under_its_second_name_alone_is_read(tmp_path):
    """As the `decoder.bias` of older versions: dropped, the model would guess other words."""
    from safetensors.torch import load_file, save_file

    reference = saved(CONFIGS["bert"], tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["cls.predictions.decoder.bias"] = state.pop("cls.predictions.bias")
    save_file(state, tmp_path / "model.safetensors")
    notes: list[str] = []
    _, weights = import_model(tmp_path, note=notes.append)
    assert torch.equal(weights["mlm.bias"], reference.cls.predictions.bias.float())
    assert notes == []


def test_two_biases_that_differ_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    saved(CONFIGS["bert"], tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"] + 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"decoder.bias differs from cls.predictions.bias"):
        import_model(tmp_path)


@pytest.mark.parametrize("how", [dict(is_decoder=True), dict(is_decoder=True, add_cross_attention=True)])
def test_a_decoder_is_refused(how, tmp_path):
    config = transformers.BertConfig(**PLAIN, num_hidden_layers=1, **how)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a decoder"):
        import_model(tmp_path)


def test_half_a_head_is_refused(tmp_path):
    saved(CONFIGS["bert"], tmp_path)
    without(tmp_path, "cls.predictions.transform.LayerNorm.bias")
    with pytest.raises(UserError, match="a part of the mlm head, but no mlm.norm.bias"):
        import_model(tmp_path)


def test_more_layers_than_the_config_says_are_refused(tmp_path):
    saved(CONFIGS["bert"], tmp_path)
    settings = (tmp_path / "config.json").read_text("utf-8")
    (tmp_path / "config.json").write_text(settings.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'), "utf-8")
    with pytest.raises(UserError, match=r"has bert.encoder.layer.1.\S+ and 15 more, for which"):
        import_model(tmp_path)


def test_the_head_of_another_task_is_named(tmp_path):
    config = transformers.BertConfig(**PLAIN, num_hidden_layers=1)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    notes: list[str] = []
    import_model(tmp_path, note=notes.append)
    assert notes[0].endswith("not used: classifier.bias, classifier.weight")
    assert notes[1].endswith("its file has no mlm, sentence head; they are drawn afresh")
