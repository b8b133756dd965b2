"""Uneven widths, low rank and factorised embeddings: what they compute."""

import pytest
import torch
import transformers

from model.canonical import round_to_multiple
from model.errors import UserError
from model.initialize import initial_weight
from model.parameters import parameter_table
from tests.support.running import build, random_batch, random_weight, small_config


@pytest.mark.parametrize(
    ("width", "multiple", "rounded"), [(1, 4, 4), (5, 4, 4), (6, 4, 8), (7, 4, 8), (8, 4, 8), (3, 1, 3), (100, 64, 128)]
)
def test_round_to_multiple(width, multiple, rounded):
    assert round_to_multiple(width, multiple) == rounded


def test_uneven_widths_are_rounded_so_that_tensor_parallelism_divides_them():
    config = small_config(layers=3, heads=(3, 1, 4), head_dim=6, ffn=(31, 2, 17), heads_multiple=2, ffn_multiple=4)
    assert config.heads == (4, 2, 4)
    assert config.ffn == (32, 4, 16)
    config.check_tensor_parallel(2)
    assert config == config.replace(heads=config.heads)
    assert small_config(ffn=(31, 33), ffn_multiple=32).ffn == 32


def test_parameters_outside_uneven_blocks_keep_their_shape():
    even, uneven = parameter_table(small_config()), parameter_table(small_config(heads=(4, 2), ffn=(16, 32)))
    assert even.keys() == uneven.keys()
    different = {name for name in even if even[name].shape != uneven[name].shape}
    assert different == {
        *(f"blocks.1.attention.{part}.{kind}" for part in ("query", "key", "value") for kind in ("weight", "bias")),
        "blocks.1.attention.output.weight",
        "blocks.0.feedforward.input.weight",
        "blocks.0.feedforward.input.bias",
        "blocks.0.feedforward.output.weight",
    }


def test_low_rank_is_the_product_of_its_factors():
    """The dense model with W = up @ down computes the same; this is also how it grows to full rank."""
    config = small_config(low_rank={"feedforward.input": 5, "feedforward.output": 7, "attention.value": 3})
    batch = random_batch(config, "packed")
    dense = config.replace(low_rank={})
    low_rank = build(config)

    def product(name):
        if name in parameter_table(config):
            return random_weight(config, name)
        up, down = (random_weight(config, name.replace("weight", factor)) for factor in ("up", "down"))
        return torch.tensordot(up, down, dims=1)

    full = build(dense)
    full.load_weights(product)
    assert full(batch).loss.item() == pytest.approx(low_rank(batch).loss.item(), rel=1e-12)


def test_fresh_factors_multiply_to_the_usual_spread():
    config = small_config(hidden=256, head_dim=64, ffn=512, low_rank={"feedforward.input": 64})
    up, down = (initial_weight(config, f"blocks.0.feedforward.input.{factor}", seed=0) for factor in ("up", "down"))
    dense = initial_weight(config.replace(low_rank={}), "blocks.0.feedforward.input.weight", seed=0)
    # each factor loses 0.8796 of its standard deviation to the truncation, a dense weight once
    assert (up @ down).std().item() == pytest.approx(0.8796 * dense.std().item(), rel=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(low_rank={"feedforward.input": 24}), "low_rank.feedforward.input 24 is not below the full rank 24"),
        (
            dict(low_rank={"attention.query": 12}, heads=(4, 2)),
            "low_rank.attention.query 12 is not below the full rank 12",
        ),
    ],
)
def test_a_rank_that_is_not_low_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        small_config(**changes)


def test_an_embedding_of_hidden_width_is_the_plain_model():
    assert small_config(embedding_size=24) == small_config()


ALBERT_NAMES = {
    "embeddings.word": "albert.embeddings.word_embeddings",
    "embeddings.position": "albert.embeddings.position_embeddings",
    "embeddings.token_type": "albert.embeddings.token_type_embeddings",
    "embeddings.norm": "albert.embeddings.LayerNorm",
    "embeddings.projection": "albert.encoder.embedding_hidden_mapping_in",
    "attention.query": "attention.query",
    "attention.key": "attention.key",
    "attention.value": "attention.value",
    "attention.output": "attention.dense",
    "attention.norm": "attention.LayerNorm",
    "feedforward.input": "ffn",
    "feedforward.output": "ffn_output",
    "feedforward.norm": "full_layer_layer_norm",
    "mlm.transform": "predictions.dense",
    "mlm.norm": "predictions.LayerNorm",
    "mlm": "predictions",
}


def test_factorised_embeddings_and_one_shared_block_are_albert():
    config = small_config(layers=3, embedding_size=10, sharing=1, sentence_head=False, activation="gelu_tanh")
    settings = transformers.AlbertConfig(
        vocab_size=131, embedding_size=10, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=16, hidden_act="gelu_new",
    )  # fmt: skip
    albert = transformers.AlbertForMaskedLM(settings).double().eval()
    state = {}
    for name, spec in parameter_table(config).items():
        module, kind = spec.local_name.rsplit(".", 1)
        layer = "" if spec.block is None else "albert.encoder.albert_layer_groups.0.albert_layers.0."
        theirs = f"{layer}{ALBERT_NAMES[module]}.{kind}"
        state[theirs] = random_weight(config, name).reshape(albert.state_dict()[theirs].shape)
    missing, unexpected = albert.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("decoder" in name or "pooler" in name for name in missing), missing
    albert.tie_weights()

    batch = random_batch(config, "padded")
    theirs = albert(input_ids=batch.ids, token_type_ids=batch.types, attention_mask=batch.segments > 0).logits
    model = build(config)
    hidden = model.encode(batch).flatten(0, 1)
    ours = model.mlm(hidden[batch.masked_positions], model.embeddings.word.weight)[:, : config.vocab_size]
    torch.testing.assert_close(ours, theirs.flatten(0, 1)[batch.masked_positions], atol=1e-12, rtol=0)
