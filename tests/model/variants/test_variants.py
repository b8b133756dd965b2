"""What holds for every variant: TP 1 = 2 in float64 over full, padded and packed rows, bf16, the table is the model.

A variant adds a line here and its own behaviour in a file of its own.
"""

import numpy as np
import pytest
import torch

from model.bert import BertForPreTraining
from model.parameters import parameter_table
from tests.support.running import assert_close, build, random_batch, run, small_config

VARIANTS = {
    "uneven heads and FFN": dict(layers=3, heads=(4, 2, 4), head_dim=6, ffn=(32, 8, 16)),
    "heads narrower than hidden, pre": dict(norm="pre", heads=2, head_dim=6),
    "groups of shared layers": dict(layers=4, sharing=(0, 0, 1, 1), norm="pre"),
    "shared, uneven": dict(layers=3, sharing=(0, 1, 0), ffn=(8, 32, 8)),
    "no biases": dict(attention_bias=False, ffn_bias=False),
    "no attention bias, pre": dict(attention_bias=False, norm="pre"),
    "factorised embeddings": dict(embedding_size=10),
    "factorised embeddings, pre, shared": dict(embedding_size=10, norm="pre", sharing=1),
    "low-rank FFN": dict(low_rank={"feedforward.input": 5, "feedforward.output": 7}),
    "low rank everywhere": dict(
        low_rank={
            "attention.query": 3,
            "attention.key": 4,
            "attention.value": 5,
            "attention.output": 6,
            "feedforward.input": 7,
            "feedforward.output": 8,
            "mlm.transform": 9,
        },
        norm="pre",
        layers=3,
        sharing=2,
    ),
    "elu attention": dict(attention="elu"),
    "relu attention, pre, shared": dict(attention="relu", norm="pre", sharing=1),
    "favor attention": dict(attention="favor", kernel_features=10),
    "light attention": dict(layers=4, light_layers=(1, 3)),
    "light attention, pre, two in a row": dict(layers=3, light_layers=(1, 2), norm="pre"),
    "light attention, shared": dict(layers=4, light_layers=(1, 3), sharing=2),
    "frozen layers": dict(layers=3, frozen_layers=2),
    "frozen layers, pre, shared, factorised": dict(
        layers=4, frozen_layers=2, sharing=(0, 0, 1, 1), norm="pre", embedding_size=10
    ),
    "layer dropping": dict(norm="pre", layer_drop={"keep": 0.5}),
    "slimming": dict(slimming={"heads": 0.03, "ffn": 0.02}),
    "slimming, pre, shared, uneven, light": dict(
        slimming={}, norm="pre", layers=4, sharing=2, light_layers=(1, 3), ffn=(32, 16, 32, 16)
    ),
    "masked units": dict(masked={"hidden": 20, "heads": 2, "ffn": 18, "layers": (1,)}),
    "masked units, pre, uneven": dict(masked={"hidden": 20, "heads": 2, "ffn": (18, 5)}, norm="pre", ffn=(32, 8)),
    "masked units, kernel, factorised": dict(masked={"hidden": 20, "heads": 3}, attention="elu", embedding_size=10),
    "pooled input": dict(layers=3, pool_window=2),
    "pooled input, pre, shared, slimming, masked": dict(
        layers=3, pool_window=3, norm="pre", sharing=1, slimming={}, masked={"hidden": 20}
    ),
    "low rank without biases": dict(low_rank={"feedforward.output": 7}, ffn_bias=False),
}
variants = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


@variants
@pytest.mark.parametrize("layout", ["full", "packed"])
def test_tensor_parallelism_changes_nothing(changes, layout):
    config = small_config(**changes)
    batch = random_batch(config, layout)  # packed rows are padded, too
    alone = run(config, batch, training=True)
    assert_close(alone, run(config, batch, tensor_parallel=2, training=True))
    for name, spec in parameter_table(config).items():
        if spec.trainable and not name.endswith("key.bias"):  # the softmax does not see the key's bias
            assert np.abs(alone.gradients[name]).max() > 1e-7, f"{name} has no gradient"


@variants
def test_works_in_bf16(changes):
    config = small_config(**changes)
    batch = random_batch(config, "packed")
    exact = run(config, batch)
    rounded = run(config, batch, dtype=torch.bfloat16)
    assert rounded.outputs["loss"] == pytest.approx(exact.outputs["loss"], rel=0.1)


@pytest.mark.gpu
@variants
@pytest.mark.parametrize("layout", ["full", "packed"])
def test_cuda_computes_the_same(changes, layout):
    config = small_config(**changes)
    batch = random_batch(config, layout)
    model = build(config).to("cuda").train()
    model.begin_step(step=300, steps_masked=2000, seed=1)  # as `run` does
    output = model(batch.to("cuda"), mlm_scale=0.25, sentence_scale=0.5)
    expected = run(config, batch, training=True).outputs
    assert output.loss.item() == pytest.approx(expected["loss"], rel=1e-10)


@variants
def test_the_table_is_the_model(changes):
    config = small_config(**changes)
    with torch.device("meta"):
        model = BertForPreTraining(config)
    table = parameter_table(config)
    assert [name for name, _ in model.named_parameters()] == list(table)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        name for name, spec in table.items() if spec.trainable
    }


@variants
def test_configs_survive_writing_and_reading(changes):
    config = small_config(**changes)
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert config.replace(hidden_dropout=0.5).replace(hidden_dropout=0.0) == config


@variants
def test_the_summary_names_the_variant(changes):
    config = small_config(**changes)
    for name in config.variants:
        assert f", {name} " in config.summary()
    assert not set("[]={}'") & set(config.summary()), "plan and logs show it"
