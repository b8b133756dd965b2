"""What holds for every variant: TP 1 = 2 in float64 over full, padded and packed rows, bf16, the table is the model.

A variant adds a line here and its own behaviour in its own file.
"""

import numpy as np
import pytest
import torch

from model.bert import BertForPreTraining
from model.parameters import parameter_table
from tests.support.running import assert_close, build, random_batch, run, small_config
from tests.support.variants import VARIANTS

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
