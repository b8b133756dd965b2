"""Causal rows: each token sees itself and those before it, exactly, in every layout and on any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from model.attention import SoftmaxAttention, attention_mask
from model.batch import Batch
from model.parameters import parameter_table
from model.variants.local_attention.layers import Window, WindowAttention
from pretrain.interop.huggingface import export_config, export_weights, huggingface_names
from tests.support.running import assert_close, build, random_batch, random_weight, run, small_config

MODERN = dict(positions="rotary", norm="pre", local_attention={"window": 6, "global_every": 2}, sentence_head=False)
LONG = small_config(**MODERN, max_positions=64)


def causal(config, layout: str, length: int = 12) -> Batch:
    return replace(random_batch(config, layout, length=length), causal=True)


@pytest.mark.parametrize("layout", ["full", "padded", "packed"])
@pytest.mark.parametrize("reach", [None, 3])
def test_attention_is_that_of_a_masked_reference(layout, reach):
    batch, length = causal(LONG, layout, 40), 40
    query, key, value = torch.randn(3, 3, 4, length, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    attention = build(LONG).blocks[0].attention
    assert isinstance(attention, WindowAttention)
    segments = torch.ones_like(batch.ids) if batch.segments is None else batch.segments
    if reach is None:
        found = SoftmaxAttention.attend(attention, query, key, value, attention_mask(batch))
    else:
        found = attention.attend(query, key, value, Window.of(segments, LONG.local_attention, causal=True))

    distance = np.arange(length)[:, None] - np.arange(length)
    seen = (distance >= 0) & (distance <= (length if reach is None else reach))
    seen = seen & (segments[:, :, None] == segments[:, None, :]).numpy()
    weights = np.exp((query @ key.mT).numpy() / 6**0.5) * seen[:, None]
    expected = weights / weights.sum(-1, keepdims=True) @ value.numpy()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("layout", ["full", "padded"])
def test_logits_and_gradients_equal_a_decoder_of_transformers(layout):
    config = small_config(sentence_head=False)
    batch = causal(config, layout)
    settings = transformers.BertConfig.from_dict({**export_config(config), "is_decoder": True})
    reference = transformers.BertLMHeadModel(settings).double().eval()
    weights = {name: random_weight(config, name) for name in parameter_table(config)}
    reference.load_state_dict(export_weights(config, weights), strict=False)
    reference.tie_weights()
    mask = None if batch.segments is None else batch.segments > 0
    theirs = reference(input_ids=batch.ids, token_type_ids=batch.types, attention_mask=mask).logits
    logits = theirs.flatten(0, 1)[batch.masked_positions]
    loss = 0.25 * torch.nn.functional.cross_entropy(logits, batch.masked_ids, reduction="sum")
    loss.backward()

    result = run(config, batch)
    assert result.outputs["loss"] == pytest.approx(loss.item(), rel=1e-12)
    gradients = dict(reference.named_parameters())
    for name, spec in parameter_table(config).items():
        (their_name,) = huggingface_names(config, spec)
        expected = gradients[their_name].grad.numpy().reshape(spec.shape)
        np.testing.assert_allclose(result.gradients[name], expected, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("config", [small_config(), LONG], ids=["plain", "modern"])
def test_nothing_depends_on_what_follows(config):
    """In a packed row, also by blocks; and each segment is what it is alone."""
    batch, model = causal(config, "packed", 12 if config is not LONG else 40), build(config)
    hidden = model.encode(batch)
    place = 7
    other = torch.cat([batch.ids[:, : place + 1], batch.ids[:, place + 1 :] % 7 + 1], dim=1)
    assert torch.equal(model.encode(replace(batch, ids=other))[:, : place + 1], hidden[:, : place + 1])
    here = batch.segments[1] == 2
    alone = Batch(batch.ids[1:2, here], *[torch.zeros(0, dtype=torch.int64)] * 2, causal=True)
    if batch.types is not None:
        alone = replace(alone, types=batch.types[1:2, here])
    torch.testing.assert_close(model.encode(alone)[0], hidden[1, here], atol=1e-12, rtol=0)


@pytest.mark.parametrize("changes", [{}, MODERN], ids=["plain", "modern"])
def test_two_tensor_parallel_ranks_compute_what_one_does(changes):
    config = small_config(**changes)
    batch = causal(config, "packed")
    whole = run(config, batch)
    assert_close(run(config, batch, tensor_parallel=2, sequence_parallel=True), whole)
    with pytest.raises(AssertionError):
        assert_close(run(config, replace(batch, causal=False)), whole, tolerance=1e-3)


def test_computing_again_sees_the_same_mask():
    gradients = []
    for recompute in (False, True):
        model = build(small_config(attention_dropout=0.3)).train()
        model.recompute = recompute
        torch.manual_seed(3)
        model(causal(model.config, "padded")).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())
