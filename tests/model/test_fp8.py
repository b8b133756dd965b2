"""Linear layers in FP8 against products of numbers that numpy has rounded; what they keep; what a GPU asks of them."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from model.bert import BertForPreTraining
from model.fp8 import fp8_linear
from model.linear import LowRankLinear, multiply_in_fp8
from model.parallel.tensor import TensorParallel
from tests.support.running import build, random_batch, small_config

E4M3, E5M2 = (3, -6, 448.0), (2, -14, 57344.0)
"""Bits of mantissa, exponent of the least normal number, largest number (Micikevicius et al. 2022, table 1)."""

CONFIG = small_config(hidden=32, ffn=64)


def in_fp8(tensor: Tensor, kind: tuple[int, int, float]) -> np.ndarray:
    """The tensor rounded to FP8, scaled by the largest power of two with which its largest entry fits; in float64."""
    bits, least, largest = kind
    values = tensor.detach().double().numpy()
    scale = 2.0 ** np.floor(np.log2(largest / np.abs(values).max()))
    exponents = np.maximum(np.frexp(values * scale)[1] - 1, least)
    steps = 2.0 ** (exponents - bits)
    return np.rint(values * scale / steps) * steps / scale


def of_many_sizes(*shape: int, seed: int) -> Tensor:
    """Some are so much smaller than the largest that FP8 has few bits for them, or none."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 10 ** (-8 * torch.rand(shape, generator=generator))


def operands(dtype: torch.dtype, tokens: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and the gradient of the result."""
    x, weight, bias = of_many_sizes(*tokens, 32, seed=1), of_many_sizes(48, 32, seed=2), torch.linspace(-1, 1, 48)
    leaves = (tensor.to(dtype).requires_grad_() for tensor in (x, weight, bias))
    return (*leaves, 1e-7 * of_many_sizes(*tokens, 48, seed=3).to(dtype))


@pytest.mark.parametrize(
    ("dtype", "tokens", "tolerance"), [(torch.float32, (2, 20), 1e-6), (torch.bfloat16, (64,), 2**-8)]
)
def test_products_and_gradients_are_those_of_rounded_numbers(dtype, tokens, tolerance):
    """But for the order of sums, and the rounding of the result."""
    x, weight, bias, gradient = operands(dtype, tokens)
    y = fp8_linear(x, weight, bias)
    y.backward(gradient)
    rounded_x, rounded_weight = in_fp8(x, E4M3).reshape(-1, 32), in_fp8(weight, E4M3)
    rounded_gradient = in_fp8(gradient, E5M2).reshape(-1, 48)
    expected = {
        "y": (y, rounded_x @ rounded_weight.T + bias.detach().double().numpy()),
        "x": (x.grad, rounded_gradient @ rounded_weight),
        "weight": (weight.grad, rounded_gradient.T @ rounded_x),
        "bias": (bias.grad, gradient.double().numpy().reshape(-1, 48).sum(0)),
    }
    for name, (found, exact) in expected.items():
        assert found.dtype == dtype
        error = np.abs(found.detach().double().numpy().reshape(exact.shape) - exact).max()
        assert error <= tolerance * np.abs(exact).max(), name
    plain = torch.nn.functional.linear(x, weight, bias)
    assert (y - plain).abs().max() > 1e-3 * plain.abs().max(), "nothing is rounded"


def test_zeros_are_zeros_and_what_is_not_finite_stays_so():
    _, weight, bias, gradient = operands(torch.float32, (16,))
    assert torch.equal(fp8_linear(torch.zeros(16, 32), weight, bias), bias.expand(16, 48))
    assert fp8_linear(torch.zeros(3, 0, 32), weight, bias).shape == (3, 0, 48)
    for value in (torch.inf, torch.nan):
        x = torch.ones(16, 32)
        x[3, 5] = value
        assert fp8_linear(x, weight).isnan().any()
        gradient[2, 7] = value
        assert torch.autograd.grad(fp8_linear(torch.ones(16, 32), weight), weight, gradient)[0].isnan().any()


def in_fp8_or_not(fp8: bool) -> BertForPreTraining:
    model = build(CONFIG, dtype=torch.float32).train()
    if fp8:
        multiply_in_fp8(model.blocks)
    return model


def step(model: BertForPreTraining) -> dict[str, Tensor]:
    loss = model(random_batch(CONFIG, rows=4)).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: parameter.grad for name, parameter in model.named_parameters()}


def empty_on_cuda(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


class Products(TorchDispatchMode):
    """The types of what is multiplied in FP8. Refuses, by torch's own rules for CUDA and on tensors without contents,
    sides that are no multiple of 16 or lie the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, torch.dtype]] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function is torch.ops.aten._scaled_mm.default:
            with FakeTensorMode():
                function(*tree_map_only(Tensor, empty_on_cuda, arguments), **options or {})
            self.seen.append((arguments[0].dtype, arguments[1].dtype))
        return function(*arguments, **options or {})


def test_linear_layers_of_blocks_multiply_as_cuda_allows():
    with Products() as products:
        step(in_fp8_or_not(True))
    forward, backward = (torch.float8_e4m3fn,) * 2, (torch.float8_e5m2, torch.float8_e4m3fn)
    linears = CONFIG.layers * 6  # query, key, value, output; input and output of the feed-forward network
    assert Counter(products.seen) == {forward: linears, backward: 2 * linears}
    low_rank = LowRankLinear(32, 48, 16, TensorParallel())
    multiply_in_fp8(low_rank)
    with Products() as products:
        low_rank(torch.ones(5, 32)).sum().backward()
    assert len(products.seen) == 5, "the input needs no gradient"


def test_nothing_is_kept_in_addition():
    def kept(fp8: bool) -> list[int]:
        found = {}

        def keep(tensor: Tensor) -> Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step(in_fp8_or_not(fp8))
        return sorted(tensor.untyped_storage().nbytes() for tensor in found.values())

    assert kept(True) == kept(False)


def test_it_compiles_whole_to_the_same_bits():
    def gradients(linear: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        *leaves, gradient = operands(torch.float32, (2, 20))
        return torch.autograd.grad(linear(*leaves), leaves, gradient)

    compiled = torch.compile(fp8_linear, backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, gradients(compiled), gradients(fp8_linear)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_multiplies_as_a_cpu_emulates(dtype):
    """Casts have the same bits. Sums may have fewer than fp32 in the forward pass (Hopper: about 14)."""
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU does not multiply in FP8")

    def outcome(device: str) -> list[Tensor]:
        *leaves, gradient = (tensor.detach().to(device) for tensor in operands(dtype, (2, 200)))
        leaves = [tensor.requires_grad_() for tensor in leaves]
        y = fp8_linear(*leaves)
        y.backward(gradient)
        return [tensor.double().cpu() for tensor in (y.detach(), *(leaf.grad for leaf in leaves))]

    for found, expected in zip(outcome("cuda"), outcome("cpu"), strict=True):
        assert (found - expected).abs().max() <= 2**-7 * expected.abs().max()
