import pytest
import torch

from model.config import BertConfig
from model.errors import UserError
from model.initialize import initial_weight
from model.parameters import parameter_table
from tests.support.running import small_config

MINI = BertConfig.preset("mini", vocab_size=1000)


def test_spread_and_truncation():
    for name, spec in parameter_table(MINI).items():
        weight = initial_weight(MINI, name, seed=0)
        assert weight.dtype == torch.float32
        assert tuple(weight.shape) == spec.shape
        if spec.init == "normal":
            assert weight.abs().max() <= 2 * MINI.std
            if spec.numel > 10_000:
                # a normal distribution cut at two standard deviations keeps 0.8796 of its standard deviation
                assert weight.std().item() == pytest.approx(0.8796 * MINI.std, rel=0.05), name
        else:
            assert torch.all(weight == (spec.init == "ones")), name


def test_every_tensor_has_its_own_stream():
    weights = [
        initial_weight(MINI, f"blocks.{block}.attention.{part}.weight", seed=0)
        for block in (0, 1)
        for part in ("query", "value")
    ]
    for index, weight in enumerate(weights):
        assert all(not torch.equal(weight, other) for other in weights[:index])
    assert torch.equal(weights[0], initial_weight(MINI, "blocks.0.attention.query.weight", seed=0))
    assert not torch.equal(weights[0], initial_weight(MINI, "blocks.0.attention.query.weight", seed=1))


def test_a_tensor_is_the_same_in_another_shape_of_the_model():
    deeper = MINI.replace(layers=8, norm="pre")
    name = "blocks.2.feedforward.input.weight"
    assert torch.equal(initial_weight(MINI, name, seed=3), initial_weight(deeper, name, seed=3))


def test_sinusoidal_positions():
    config = MINI.replace(position_init="sinusoidal")
    table = initial_weight(config, "embeddings.position.weight", seed=0)
    assert table.pow(2).mean().sqrt().item() == pytest.approx(2 * config.std, rel=1e-3)
    similarity = torch.nn.functional.normalize(table[:64]) @ torch.nn.functional.normalize(table[:64]).T
    by_distance = [similarity.diagonal(distance).mean().item() for distance in range(4)]
    assert by_distance == sorted(by_distance, reverse=True)
    shifts = [similarity.diagonal(distance).std().item() for distance in range(1, 4)]
    assert max(shifts) < 1e-5, "similarity must depend on the distance alone"


def test_scaled_outputs():
    plain, scaled = small_config(), small_config(output_init="scaled")
    for name in parameter_table(plain):
        shrunk = name.endswith(("attention.output.weight", "feedforward.output.weight"))
        factor = (2 * plain.layers) ** -0.5 if shrunk else 1.0
        assert torch.allclose(initial_weight(scaled, name, seed=1), factor * initial_weight(plain, name, seed=1))


def test_scaled_outputs_of_low_rank():
    """The product of the factors has the standard deviation of the whole matrix."""
    config = small_config(output_init="scaled", low_rank={"feedforward.output": 8})
    up, down = (initial_weight(config, f"blocks.0.feedforward.output.{part}", seed=1) for part in ("up", "down"))
    assert (up @ down).std().item() == pytest.approx(0.88**2 * config.std / (2 * config.layers) ** 0.5, rel=0.15)


def test_aligned_attention():
    config = small_config(attention_init="aligned")
    query = initial_weight(config, "blocks.1.attention.query.weight", seed=0)
    assert torch.equal(query, initial_weight(config, "blocks.1.attention.key.weight", seed=0))
    assert torch.equal(query, 1.5 * initial_weight(small_config(), "blocks.1.attention.query.weight", seed=0))
    assert not torch.equal(query, initial_weight(config, "blocks.1.attention.value.weight", seed=0))


def test_attention_to_neighbours():
    """By positions alone, each head looks where its number says. Wide heads: a random projection blurs less."""
    config = small_config(head_dim=512, attention_init="neighbours", position_init="sinusoidal")
    positions = initial_weight(config, "embeddings.position.weight", seed=0)  # [P, H]
    query, key = (
        torch.einsum("ndh,ph->npd", initial_weight(config, f"blocks.0.attention.{part}.weight", seed=0), positions)
        for part in ("query", "key")
    )
    seen = (query @ key.transpose(-2, -1)).argmax(-1)  # [heads, P]
    for head, offset in enumerate((-1, 1, -2, 2)):
        inner = torch.arange(2, 14)
        assert torch.equal(seen[head, inner], inner + offset)


@pytest.mark.parametrize("changes", [{"position_init": "normal"}, {"embedding_size": 8}, {"hidden": 25, "heads": 5}])
def test_neighbours_need_sinusoids_of_the_models_width(changes):
    with pytest.raises(UserError, match="attention_init neighbours"):
        small_config(**{"attention_init": "neighbours", "position_init": "sinusoidal", **changes})


def test_factors_of_attention_cannot_be_aligned():
    with pytest.raises(UserError, match=r"attention_init aligned .* low_rank"):
        small_config(attention_init="aligned", low_rank={"attention.key": 4})
