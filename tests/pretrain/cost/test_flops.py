"""FLOPs against published figures and torch's own counter; bytes against counts worked out by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.batch import Batch
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.initialize import initial_weight
from pretrain.cost.flops import encoder_flops, training_flops
from pretrain.cost.memory import num_parameters, parameters_per_tensor_rank, state_bytes
from pretrain.cost.savings import stage_flops
from pretrain.recipe import load_recipe, resolve


@pytest.mark.parametrize(
    ("preset", "sequence", "predictions", "gigaflops"),
    [("base", 128, 20, 69.9), ("base", 512, 80, 301.4), ("large", 128, 20, 240.6), ("large", 512, 80, 1020.5)],
)
def test_published_cost_of_a_sequence(preset, sequence, predictions, gigaflops):
    flops = training_flops(BertConfig.preset(preset), rows=1, sequence=sequence, num_predictions=predictions)
    assert flops / 1e9 == pytest.approx(gigaflops, rel=2e-3)


def test_published_cost_of_a_whole_run():
    """NVIDIA's two-phase BERT-large: 1.11e20 + 5.2e19 floating-point operations."""
    run = resolve(load_recipe("lamb-large"), None, 8)
    short, long = (stage.length * stage_flops(stage) for stage in run.stages)
    assert short == pytest.approx(1.11e20, rel=5e-3)
    assert long == pytest.approx(5.2e19, rel=5e-3)


def test_shared_layers_cost_as_much_as_separate_ones():
    config = BertConfig.preset("mini")
    assert encoder_flops(config, 64) == encoder_flops(config.replace(sharing=1), 64)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "pre", "sentence_head": True},
        {"heads": (2, 1, 2), "ffn": (96, 64, 128)},
        {"sharing": 1},
    ],
    ids=["plain", "sentence_head", "ragged", "shared"],
)
def test_formula_equals_the_counter_on_the_real_model(changes):
    plain = {"layers": 3, "hidden": 32, "heads": 2, "head_dim": 16, "ffn": 64, "vocab_size": 256, "max_positions": 32}
    quiet = {"hidden_dropout": 0, "attention_dropout": 0, "sentence_head": False}
    config = BertConfig(**{**plain, **quiet, **changes})
    rows, sequence, predictions = 4, 16, 10
    model = BertForPreTraining(config)
    model.load_weights(lambda name: initial_weight(config, name, seed=0))
    sentences = torch.arange(0, rows * sequence, sequence) if config.sentence_head else None
    batch = Batch(
        ids=torch.randint(5, 256, (rows, sequence)),
        masked_positions=torch.arange(predictions),
        masked_ids=torch.randint(5, 256, (predictions,)),
        sentence_positions=sentences,
        sentence_labels=None if sentences is None else torch.zeros(rows, dtype=torch.int64),
    )
    with FlopCounterMode(display=False) as counter:
        loss = model(batch).loss
        loss.backward()
    assert counter.get_total_flops() == training_flops(config, rows, sequence, predictions)


def test_parameter_counts_of_the_presets():
    """Encoder, embeddings and pooler are 109,482,240 and 335,141,888; the rest are the two heads."""
    for preset, hidden, encoder in (("base", 768, 109_482_240), ("large", 1024, 335_141_888)):
        head = hidden * hidden + hidden + 2 * hidden + 30_522
        sentence = 2 * hidden + 2
        assert num_parameters(BertConfig.preset(preset)) == encoder + head + sentence


def test_tensor_parallelism_cuts_everything_but_the_replicated_parts():
    config = BertConfig(layers=1, hidden=8, heads=2, ffn=16, vocab_size=100, max_positions=4)
    whole = parameters_per_tensor_rank(config, 1)
    assert whole - num_parameters(config) == 28 * (8 + 1)  # the vocabulary padded from 100 to 128
    cut = 128 * 8 + 128 + 3 * (8 * 8 + 8) + 8 * 8 + (8 * 16 + 16) + 16 * 8
    assert whole - parameters_per_tensor_rank(config, 2) == cut // 2


@pytest.mark.parametrize(
    ("zero_stage", "precision", "bytes_per_parameter"),
    [
        (0, "fp32", (4, 4, 8)),
        (1, "fp32", (4, 4, 3)),
        (2, "bf16", (2, 0.5, 3)),
        (3, "bf16", (0.5, 0.5, 3)),
    ],
)
def test_state_bytes_on_four_data_parallel_ranks(zero_stage, precision, bytes_per_parameter):
    config = BertConfig.preset("tiny", vocab_size=128)
    count = num_parameters(config)
    held = state_bytes(config, zero_stage, precision, tensor_parallel=1, data_parallel=4)
    expected = [factor * count for factor in bytes_per_parameter]
    assert [held.weights, held.gradients, held.optimizer] == pytest.approx(expected, rel=1e-4)


def test_frozen_parameters_have_neither_gradients_nor_moments():
    config = BertConfig.preset("tiny", vocab_size=128)
    held = state_bytes(config.replace(frozen_layers=1), 0, "fp32", 1, 1)
    layer = 4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128 + 4 * 128
    heads = 128 * 128 + 128 + 2 * 128 + 128 + (128 * 128 + 128) + (2 * 128 + 2)  # masked words; pooler; sentence pairs
    assert held.weights == 4 * num_parameters(config)
    assert (held.gradients, held.optimizer) == (4 * (layer + heads), 8 * (layer + heads))


def test_offload_moves_the_optimizer_to_the_host():
    config = BertConfig.preset("tiny")
    kept = state_bytes(config, 2, "bf16", 1, 2)
    moved = state_bytes(config, 2, "bf16", 1, 2, offload_optimizer=True)
    assert (moved.optimizer, moved.host) == (0, kept.optimizer)
    assert kept.device - moved.device == kept.optimizer
