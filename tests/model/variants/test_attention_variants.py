"""Kernel attention against explicit quadratic loops, light attention against copied maps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.attention import Attention, attention_map, attention_mask
from model.errors import UserError
from model.parallel.tensor import TensorParallel
from model.variants.kernel_attention.layers import RELU_FLOOR, KernelAttention, random_directions, segment_membership
from tests.support.running import build, random_batch, random_weight, small_config


def weight_of_a_pair(kernel: str, query: np.ndarray, key: np.ndarray, directions: np.ndarray | None) -> float:
    """phi(q) phi(k) as the papers write it."""
    if kernel == "elu":
        phi_q, phi_k = (np.where(x > 0, x + 1, np.exp(x)) for x in (query, key))
    elif kernel == "relu":
        phi_q, phi_k = (np.maximum(x, 0) + RELU_FLOOR for x in (query, key))
    else:
        phi_q, phi_k = (
            np.exp(directions @ x - x @ x / 2) / np.sqrt(len(directions))
            for x in (query / len(query) ** 0.25, key / len(key) ** 0.25)
        )
    return float(phi_q @ phi_k)


@pytest.mark.parametrize("kernel", ["elu", "relu", "favor"])
@pytest.mark.parametrize("layout", ["full", "padded", "packed"])
def test_kernel_attention_equals_a_quadratic_loop(kernel, layout):
    config = small_config(attention=kernel)
    attention = KernelAttention(config, config.heads, TensorParallel()).double()
    segments = random_batch(config, layout).segments
    query, key, value = torch.randn(3, 3, 4, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    context = attention.attend(query, key, value, segment_membership(segments)).numpy()
    directions = attention.directions.numpy() if kernel == "favor" else None

    expected = np.zeros_like(context)
    for row, head, i in np.ndindex(3, 4, 12):
        seen = [j for j in range(12) if segments is None or segments[row, i] == segments[row, j] != 0]
        weights = [
            weight_of_a_pair(kernel, query[row, head, i].numpy(), key[row, head, j].numpy(), directions) for j in seen
        ]
        if seen:
            expected[row, head, i] = np.average(value[row, head, seen].numpy(), axis=0, weights=weights)
    np.testing.assert_allclose(context, expected, atol=1e-10)


def test_many_random_features_approximate_the_softmax():
    config = small_config(attention="favor", kernel_features=4096)
    query, key, value = 0.5 * torch.randn(3, 1, 4, 12, 6, generator=torch.Generator().manual_seed(2))
    kernel = KernelAttention(config, config.heads, TensorParallel()).attend(query, key, value, None)
    softmax = attention_map(query, key, None) @ value
    assert (kernel - softmax).abs().max() < 0.05
    few = KernelAttention(config.replace(kernel_features=4), config.heads, TensorParallel()).attend(
        query, key, value, None
    )
    assert (few - softmax).abs().max() > 2 * (kernel - softmax).abs().max()


def test_random_directions_are_orthogonal_and_normal():
    directions = random_directions(32, 16)
    groups = directions.view(2, 16, 16)
    gram = groups @ groups.transpose(1, 2)
    assert (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).abs().max() < 1e-10
    assert directions.square().mean().item() == pytest.approx(1, rel=0.2)
    assert torch.equal(random_directions(20, 16), directions[:20])


def test_kernel_and_softmax_attention_share_their_parameters_and_differ_in_the_function():
    config = small_config()
    kernel = config.replace(attention="elu")
    batch = random_batch(config, "packed")
    left, right = build(config), build(kernel)
    assert [name for name, _ in left.named_parameters()] == [name for name, _ in right.named_parameters()]
    assert abs(left(batch).loss.item() - right(batch).loss.item()) > 1e-3


def test_kernel_attention_keeps_nothing_quadratic():
    """No tensor of the forward pass grows with the square of the sequence."""
    config = small_config(attention="elu", max_positions=64)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda x: x):
        build(config).encode(random_batch(config, "packed", rows=3, length=64))
    assert max(sizes) < 3 * 4 * 64 * 64


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_light_layer_uses_the_map_of_the_layer_below(norm):
    config = small_config(layers=3, light_layers=(1, 2), norm=norm)
    model = build(config)
    batch = random_batch(config, "packed")
    x = model.embeddings(batch)
    lowest = model.blocks[0].attention
    seen = lowest.norm(x) if norm == "pre" else x
    query, key = (lowest.heads(projection(seen)) for projection in (lowest.query, lowest.key))
    probabilities = attention_map(query, key, attention_mask(batch))
    for block in model.blocks:
        attention = block.attention
        seen = attention.norm(x) if norm == "pre" else x
        context = probabilities @ attention.heads(attention.value(seen))
        branch = attention.output(context.transpose(1, 2).flatten(2))
        x = x + branch if norm == "pre" else attention.norm(x + branch)
        seen = block.feedforward.norm(x) if norm == "pre" else x
        branch = block.feedforward.output(F.gelu(block.feedforward.input(seen)))
        x = x + branch if norm == "pre" else block.feedforward.norm(x + branch)
    torch.testing.assert_close(model.encode(batch), model.final_norm(x), atol=1e-12, rtol=0)


def test_without_light_layers_the_map_path_equals_plain_attention():
    """The two ways to compute a layer agree: a light model whose upper layer repeats the lower one's query and key
    on the same input would be the plain model; here, the lowest layer alone."""
    light = small_config(light_layers=(1,))
    plain = small_config()
    batch = random_batch(plain, "packed")
    outputs = []
    for config in (light, plain):
        model = build(config)
        model.load_weights(lambda name, config=config: random_weight(plain, name))
        model.blocks[0].register_forward_hook(lambda module, inputs, output: outputs.append(output))
        model.encode(batch)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-13, rtol=0)


def test_light_layers_drop_out_their_own_entries():
    config = small_config(light_layers=(1,), attention_dropout=0.5)
    model = build(config).train()
    batch = random_batch(config)
    maps = []
    for block in model.blocks:
        mix = block.attention.mix
        block.attention.mix = lambda probabilities, value, mix=mix: (
            maps.append(probabilities) or mix(probabilities, value)
        )
    torch.manual_seed(0)
    model.encode(batch)
    assert maps[0] is maps[1]
    assert model.encode(batch).sub(model.encode(batch)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(attention="elu", attention_dropout=0.1),
            "attention elu has no probabilities to drop out; set attention_dropout 0",
        ),
        (
            dict(attention="elu", light_layers=(1,)),
            "attention and light_layers do not go together",
        ),
        (dict(kernel_features=8), "kernel_features 8 is for attention favor, not softmax"),
        (dict(light_layers=(2,)), "light_layers names layer 2, but the last of 2 layers is 1"),
        (dict(light_layers=(1,), heads=(4, 2)), "light layer 1 has 2 heads and the layer below 4"),
        (dict(light_layers=(1,), sharing=1), "layers 0 and 1 share a block, but light_layers"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        small_config(**changes)


def test_a_light_layer_has_fewer_parameters():
    light, plain = build(small_config(light_layers=(1,))), build(small_config())
    assert not hasattr(light.blocks[1].attention, "query")
    assert isinstance(plain.blocks[1].attention, Attention)
    missing = {name for name, _ in plain.named_parameters()} - {name for name, _ in light.named_parameters()}
    assert missing == {f"blocks.1.attention.{part}.{kind}" for part in ("query", "key") for kind in ("weight", "bias")}
