import pytest
import torch

from model.bert import BertForPreTraining
from model.config import BertConfig
from model.parameter_spec import ParameterSpec
from model.parameters import parameter_table
from tests.support.running import small_config


@pytest.mark.parametrize(("preset", "count"), [("base", 109_482_240), ("large", 335_141_888)])
def test_parameter_counts_of_bert(preset, count):
    table = parameter_table(BertConfig.preset(preset))
    parts = ("embeddings.", "blocks.", "pooler.")
    assert sum(spec.numel for name, spec in table.items() if name.startswith(parts)) == count


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(norm="pre"),
        dict(sentence_head=False),
        dict(layers=4, sharing=(0, 1, 1, 0)),
        dict(heads=(4, 2), ffn=(32, 16)),
    ],
)
def test_the_table_is_the_model(changes):
    config = small_config(**changes)
    table = parameter_table(config)
    with torch.device("meta"):
        model = BertForPreTraining(config)
    assert [name for name, _ in model.named_parameters()] == list(table)
    for name, parameter in model.named_parameters():
        assert parameter.numel() == torch.Size(table[name].local_shape(1)).numel(), name
        assert parameter.tensor_model_parallel == (table[name].tensor_parallel_axis is not None)


def test_weight_decay_is_for_matrices():
    for name, spec in parameter_table(small_config(norm="pre")).items():
        assert spec.decay == (name.endswith("weight") and "norm" not in name), name


def test_every_hidden_axis_says_what_happens_there():
    table = parameter_table(small_config())
    assert [axis.role for axis in table["blocks.0.attention.query.weight"].axes] == ["produced", "produced", "consumed"]
    assert [axis.role for axis in table["blocks.0.attention.output.weight"].axes] == [
        "produced",
        "consumed",
        "consumed",
    ]
    assert [axis.role for axis in table["embeddings.word.weight"].axes] == ["fixed", "produced"]
    assert table["mlm.norm.weight"].axes[0].role == "consumed"  # feeds the tied decoder, which sums over hidden


def test_a_parameter_has_at_least_one_axis():
    with pytest.raises(AssertionError, match="gain has no axes; a scalar has one axis of size 1"):
        ParameterSpec("gain", ())
