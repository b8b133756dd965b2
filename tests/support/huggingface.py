"""Models of transformers in float64 with our generic weights, for parity."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers

from model.parameters import parameter_table
from pretrain.interop.huggingface import export_config, export_weights, huggingface_names
from tests.support.running import random_weight

KINDS = {
    ("post", True): transformers.BertForPreTraining,
    ("post", False): transformers.BertForMaskedLM,
    ("pre", True): transformers.MegatronBertForPreTraining,
    ("pre", False): transformers.MegatronBertForMaskedLM,
}
"""By norm, and whether there is a sentence head."""


def logical_weights(config):
    return {name: random_weight(config, name) for name in parameter_table(config)}


def reference_model(config) -> torch.nn.Module:
    """transformers' model in float64 with our generic weights, by way of `export_config` and `export_weights`."""
    settings = transformers.AutoConfig.for_model(**export_config(config))
    assert export_config(config)["architectures"] == [KINDS[config.norm, config.sentence_head].__name__]
    model = KINDS[config.norm, config.sentence_head](settings).double().eval()
    missing, unexpected = model.load_state_dict(export_weights(config, logical_weights(config)), strict=False)
    assert not unexpected
    assert all(".decoder." in name for name in missing), missing
    model.tie_weights()
    return model


def reference_outputs(model, batch):
    mask = None if batch.segments is None else batch.segments > 0
    return model(input_ids=batch.ids, token_type_ids=batch.types, attention_mask=mask, output_hidden_states=True)


def assert_their_gradients(ours, reference, config):
    """`config`: the model of transformers, as a shape of ours."""
    gradients = dict(reference.named_parameters())
    for name, spec in parameter_table(config).items():
        (their_name,) = huggingface_names(config, spec)
        expected = gradients[their_name].grad.numpy().reshape(spec.shape)
        np.testing.assert_allclose(ours[name], expected, atol=1e-11, err_msg=name)
