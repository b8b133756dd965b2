"""ModernBERT and ESM-2: the published models' parameters, and parity with transformers both ways in float64."""

import json
import os
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
import transformers
from transformers.models.esm import modeling_esm
from transformers.models.modernbert import modeling_modernbert

from growth.operators import make_operator, shape_change
from growth.operators.base import Inputs
from growth.state import Record
from model.config import BertConfig
from model.errors import UserError
from model.parameters import parameter_table
from pretrain.interop.huggingface import (
    export_config,
    export_model,
    export_weights,
    huggingface_names,
    merged_shape,
)
from pretrain.interop.huggingface_import import import_model
from pretrain.interop.modern import modern_family, modernbert
from tests.support.running import build, random_batch, random_weight, run, small_config

SMALL = dict(positions="rotary", norm="pre", type_vocab=0, sentence_head=False, norm_eps=1e-5)
MODERNBERT = small_config(
    **SMALL,
    **dict(layers=3, gated=True, embedding_norm=True, first_norm=False, rotary_theta=160_000.0),
    **dict(attention_bias=False, ffn_bias=False, norm_bias=False, head_bias=False),
)
ESM = small_config(**SMALL, token_dropout={"mask_token": 7})
CASES = {
    "ModernBERT": MODERNBERT,
    "ModernBERT with all biases, SwiGLU": MODERNBERT.replace(
        attention_bias=True, ffn_bias=True, norm_bias=True, head_bias=True, activation="silu"
    ),
    "ModernBERT, local": MODERNBERT.replace(
        layers=5, local_attention={"window": 4, "global_every": 2, "theta": 10_000.0}
    ),
    "ESM-2": ESM,
    "ESM-2 with embedding norm, without token dropout": ESM.replace(embedding_norm=True, token_dropout=None),
}
CLASSES = {True: transformers.ModernBertForMaskedLM, False: transformers.EsmForMaskedLM}
cases = pytest.mark.parametrize("config", CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def turned_in_float64(monkeypatch):
    """transformers turns queries and keys in fp32, whatever the model's precision."""

    def apply(query, key, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        half = modeling_esm.rotate_half
        return query * cos + half(query) * sin, key * cos + half(key) * sin

    for module in (modeling_esm, modeling_modernbert):
        monkeypatch.setattr(module, "apply_rotary_pos_emb", apply)


def logical_weights(config: BertConfig) -> dict[str, torch.Tensor]:
    return {name: random_weight(config, name) for name in parameter_table(config)}


def reference_model(config: BertConfig) -> torch.nn.Module:
    settings = transformers.AutoConfig.for_model(**export_config(config), attn_implementation="sdpa")
    model = CLASSES[config.gated](settings).double().eval()
    assert export_config(config)["architectures"] == [type(model).__name__]
    missing, unexpected = model.load_state_dict(export_weights(config, logical_weights(config)), strict=False)
    assert not unexpected
    assert all("decoder.weight" in name or "contact_head" in name or "inv_freq" in name for name in missing), missing
    model.tie_weights()
    return model


@cases
@pytest.mark.parametrize("layout", ["full", "padded"])
def test_logits_and_gradients_equal_transformers(config, layout):
    batch = random_batch(config, layout)
    if config.token_dropout:  # a quarter of the tokens are [MASK], unevenly over rows
        batch = replace(batch, ids=batch.ids.flatten().index_fill(0, batch.masked_positions, 7).view_as(batch.ids))
    reference = reference_model(config)
    mask = None if batch.segments is None else (batch.segments > 0).long()
    theirs = reference(input_ids=batch.ids, attention_mask=mask).logits.flatten(0, 1)[batch.masked_positions]
    loss = 0.25 * torch.nn.functional.cross_entropy(theirs, batch.masked_ids, reduction="sum")
    loss.backward()

    model = build(config)
    hidden = model.encode(batch).flatten(0, 1)
    ours = model.mlm(hidden[batch.masked_positions], model.embeddings.word.weight)[:, : config.vocab_size]
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    gradients = gradients_by_our_names(config, reference)
    result = run(config, batch)
    assert result.outputs["loss"] == pytest.approx(loss.item(), rel=1e-12)
    for name, gradient in result.gradients.items():
        np.testing.assert_allclose(gradient, gradients[name], atol=1e-11, err_msg=name)


def gradients_by_our_names(config: BertConfig, reference: torch.nn.Module) -> dict[str, np.ndarray]:
    family = modern_family(config)
    assert family is not None
    state = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    as_bert = family.to_bert(state)
    return {
        name: as_bert[huggingface_names(config, spec)[0]].reshape(spec.shape).numpy()
        for name, spec in parameter_table(config).items()
    }


@cases
def test_round_trip_through_files(config, tmp_path):
    config = config.replace(hidden_dropout=0.2)
    weights = {name: weight.float() for name, weight in logical_weights(config).items()}
    export_model(tmp_path, config, weights)
    opened, info = CLASSES[config.gated].from_pretrained(tmp_path, output_loading_info=True)
    assert all("contact_head" in name or "inv_freq" in name for name in info["missing_keys"]), info
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    opened.save_pretrained(tmp_path / "theirs")
    stripped = json.loads((tmp_path / "theirs/config.json").read_text())
    stripped.pop("espalier")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text(json.dumps(stripped))
    (tmp_path / "bare/model.safetensors").write_bytes((tmp_path / "theirs/model.safetensors").read_bytes())
    for folder in (tmp_path, tmp_path / "theirs", tmp_path / "bare"):
        again, imported = import_model(folder)
        assert again == config
        assert imported.keys() == weights.keys()
        assert all(torch.equal(imported[name], weights[name]) for name in weights)


@pytest.mark.parametrize("model", [transformers.ModernBertModel, transformers.EsmModel])
def test_a_bare_encoder_of_theirs_is_imported(model, tmp_path):
    config = MODERNBERT if model is transformers.ModernBertModel else ESM
    settings = transformers.AutoConfig.for_model(**export_config(config))
    reference = model(settings).eval()
    reference.save_pretrained(tmp_path)
    notes: list[str] = []
    again, weights = import_model(tmp_path, note=notes.append)
    assert again == config
    assert any("mlm" in note for note in notes)
    ours = build(config, dtype=torch.float32)
    ours.load_weights(weights.__getitem__)
    batch = random_batch(config)
    with torch.no_grad():
        theirs = reference(input_ids=batch.ids).last_hidden_state
        torch.testing.assert_close(ours.encode(batch), theirs, atol=2e-6, rtol=1e-5)


def test_a_grown_model_opens_in_transformers(tmp_path):
    """From a folder of theirs to a larger one of theirs, of the same function."""
    CLASSES[True](transformers.AutoConfig.for_model(**export_config(MODERNBERT))).save_pretrained(tmp_path / "small")
    config, weights = import_model(tmp_path / "small")
    wanted = dict(hidden=48, heads=8, ffn=64)
    state = {name: Record.fresh(weight) for name, weight in weights.items()}
    change = shape_change(config, [make_operator("widen", {})], wanted, Inputs(state.__getitem__))
    grown = {name: change.record(name, state.__getitem__).weight for name in parameter_table(change.target)}
    export_model(tmp_path / "large", change.target, grown)
    ids = random_batch(config).ids
    small, large = (CLASSES[True].from_pretrained(tmp_path / name).eval() for name in ("small", "large"))
    with torch.no_grad():
        torch.testing.assert_close(large(input_ids=ids).logits, small(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


PUBLISHED = {
    "modernbert-base": 149_655_232,
    "modernbert-large": 395_881_664,
    "esm2-8m": 7_512_353,
    "esm2-35m": 33_501_153,
    "esm2-150m": 148_139_553,
    "esm2-650m": 651_042_593,
}


@pytest.mark.parametrize(("preset", "num_parameters"), PUBLISHED.items())
def test_presets_have_the_parameters_of_the_published_models(preset, num_parameters):
    config = BertConfig.preset(preset)
    table = parameter_table(config)
    assert sum(spec.numel for spec in table.values()) == num_parameters
    with torch.device("meta"):
        theirs = CLASSES[config.gated](transformers.AutoConfig.for_model(**export_config(config)))
        theirs.tie_weights()
    shapes = {name: tuple(p.shape) for name, p in theirs.named_parameters() if "contact_head" not in name}
    assert sum(np.prod(shape) for shape in shapes.values()) == num_parameters
    family = modern_family(config)
    assert family is not None
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if config.gated:  # the layers' kinds and angles are those of their defaults
        default = transformers.ModernBertConfig(num_hidden_layers=config.layers)
        told = {key: getattr(default, key) for key in ("layer_types", "local_attention", "rope_parameters")}
        assert {key: export_config(config)[key] for key in told} == told
    ours = {names: merged_shape(s) for s in table.values() for names in huggingface_names(config, s)}
    assert {name: tuple(tensor.shape) for name, tensor in family.to_bert(state).items()} == ours


MISTAKES = [
    (MODERNBERT.replace(norm_type="rms"), "norm_type rms: the nearest model of transformers, ModernBertForMaskedLM"),
    (MODERNBERT.replace(type_vocab=2), "type_vocab 2: .* has only type_vocab 0"),
    (ESM.replace(attention="elu"), "attention elu: .*EsmForMaskedLM, has no such thing"),
    (ESM.replace(positions="none"), "positions none: .* has only positions rotary"),
]


@pytest.mark.parametrize(("config", "message"), MISTAKES)
def test_a_shape_that_transformers_lacks_is_refused(config, message):
    with pytest.raises(UserError, match=message) as caught:
        export_config(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (MODERNBERT, {"classifier_activation": "silu"}, "classifier_activation silu cannot be imported"),
        (MODERNBERT, {"layer_types": ["sliding_attention"] * 3}, "layer_types cannot be imported where global layers"),
        (MODERNBERT, {"rope_scaling": {"type": "yarn"}}, "rotary angles that are scaled"),
        (ESM, {"position_embedding_type": "absolute"}, "position_embedding_type 'absolute' of an ESM"),
    ],
)
def test_a_model_of_theirs_that_computes_something_else_is_refused(config, changes, message, tmp_path: Path):
    export_model(tmp_path, config, {name: weight.float() for name, weight in logical_weights(config).items()})
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, **changes}))
    with pytest.raises(UserError, match=message):
        import_model(tmp_path)


@pytest.mark.parametrize(("named", "theta"), [({}, 10_000.0), ({"local_rope_theta": None}, None)])
def test_no_angles_of_its_own_in_a_local_layer_are_those_of_global_ones(named, theta):
    """In the words of earlier versions of transformers."""
    words = {"num_hidden_layers": 4, "global_rope_theta": 80_000.0, "vocab_size": 50, **named}
    fields = modernbert(words, {}).fields
    assert fields["rotary_theta"] == 80_000.0
    assert fields["local_attention"].get("theta") == theta
