"""What one rank computes and moves: matrix products, attention, and each kind of pass over memory, timed."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from math import inf
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import attention_map
from model.attention_kernels import KERNELS, Asked, PackedRows, fused_attention
from model.batch import Runs
from model.dropout import dropout
from model.fp8 import E4M3, cast, multiplied
from model.loss import vocab_parallel_cross_entropy
from model.parallel.tensor import TensorParallel
from pretrain.cost.time.passes import MOVED, UPDATE_BYTES
from pretrain.engine.distributed import device
from pretrain.optim.adamw_step import AdamW
from pretrain.optim.lamb.step import Lamb
from pretrain.optim.lans.step import Lans
from pretrain.optim.stableadamw.step import StableAdamW
from pretrain.profile.peak import synchronize
from pretrain.training.attention import WITHIN_PLAN

SECONDS = 0.12
"""Of each measurement."""

CPU_PRODUCTS = (
    *((512, 128, 128), (2048, 128, 512), (128, 2048, 128), (1024, 256, 256), (4096, 256, 1024), (1024, 256, 8192)),
    *((256, 4096, 1024), (4096, 1024, 256), (2048, 768, 768), (768, 2048, 768), (1024, 768, 3072), (8192, 300, 512)),
)
GPU_PRODUCTS = (
    *((1024, 256, 256), (4096, 256, 1024), (1024, 4096, 256), (4096, 768, 768), (16384, 768, 3072), (768, 16384, 3072)),
    *((16384, 1024, 1024), (1024, 16384, 1024), (16384, 4096, 1024), (4096, 16384, 1024), (2048, 1024, 30_592)),
    *((30_592, 2048, 1024), (65536, 1024, 4096), (8192, 8192, 8192)),
)
"""[M, K, N]: layers, gradients and heads, from small to BERT-large."""

NUM_LAYERS, LAYERS_BYTES = 8, 2**30
"""That a product is measured in, one after the other, and what they may take: so much is in no cache."""

ATTENTION = ((64, 32), (128, 64), (512, 64))
"""Tokens of a row, head_dim."""

NUM_PARAMETERS = 4_000_000
"""Of an optimizer's step: more than a core's cache."""


def median_seconds(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """Of some calls; the first does not count. The fastest may be one that the other ranks no longer disturbed."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        synchronize(device())
        start = time.perf_counter()
        call()
        synchronize(device())
        times.append(time.perf_counter() - start)
    return median(times)


def product_rates(dtype: torch.dtype, in_fp8: bool = False) -> Iterator[tuple[int, int, int, float]]:
    """[M, K, N, TFLOP/s]"""
    on_cpu = device().type == "cpu"
    for m, k, n in CPU_PRODUCTS if on_cpu else GPU_PRODUCTS:
        yield m, k, n, 2e-12 * m * k * n / product_seconds(m, k, n, dtype, in_fp8)


def product_seconds(m: int, k: int, n: int, dtype: torch.dtype, in_fp8: bool = False) -> float:
    """The second factor is transposed, as a linear layer's is. Products of several layers in turn: what one of them
    needs is in the cache only where the whole model is. The results stay for a while, as a backward pass needs them:
    large ones then take new memory, which on a CPU is a quarter of the time of some products.

    in_fp8: of factors that have been cast, with a result of `dtype`."""
    num_bytes = dtype.itemsize * (m * k + n * k + m * n)
    num_layers = max(1, min(NUM_LAYERS, LAYERS_BYTES // num_bytes))
    layers: list[list[Any]] = [
        [torch.randn(shape, device=device(), dtype=dtype) for shape in ((m, k), (n, k))] for _ in range(num_layers)
    ]
    if in_fp8:
        layers = [[cast(factor, E4M3) for factor in layer] for layer in layers]
    in_turn, results = cycle(layers), deque[Tensor](maxlen=num_layers)

    def call() -> None:
        left, right = next(in_turn)
        results.append(multiplied(left, right, dtype, fast=True) if in_fp8 else left @ right.t())

    return median_seconds(call)


def attention_rates(dtype: torch.dtype) -> Iterator[tuple[int, int, float]]:
    """[tokens, head_dim, TFLOP/s] forward and backward, from the projections to the context and back. By the kernel
    that is the fastest there, as a run finds it (`pretrain.training.attention`), over rows or segments of so many
    tokens."""
    tokens, heads = (4096, 4) if device().type == "cpu" else (16384, 16)
    for length, width in ATTENTION:
        shape = (tokens // length, length, heads * width)
        inputs = [torch.randn(shape, device=device(), dtype=dtype, requires_grad=True) for _ in range(3)]
        seconds = min(attention_seconds(name, inputs, heads) for name in kernels_for(dtype, width))
        flops = 3 * 4 * tokens * length * heads * width
        yield length, width, 1e-12 * flops / seconds


def kernels_for(dtype: torch.dtype, head_dim: int) -> list[str]:
    """Those that a run may choose on this device."""
    if device().type == "cpu":
        return ["products"]
    asked = Asked(device(), dtype, head_dim, dropout=0.0)
    return [name for name in WITHIN_PLAN if KERNELS[name].obstacle(asked) is None]


def attention_seconds(kernel: str, inputs: list[Tensor], heads: int) -> float:
    """Of queries, keys and values [B, S, heads * head_dim]; endless where the kernel refuses them."""
    num_rows, length, _ = inputs[0].shape
    starts = torch.arange(0, (num_rows + 1) * length, length, dtype=torch.int32, device=device())
    over_runs = KERNELS[kernel].over_runs
    mask = PackedRows(Runs(starts, length), over_runs) if over_runs else None

    def call() -> None:
        query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in inputs)
        if kernel == "products":
            context = attention_map(query, key, None) @ value
        else:
            context = fused_attention(query, key, value, mask, 0.0, kernel)
        context.transpose(1, 2).flatten(2).backward(inputs[0].detach())

    try:
        return median_seconds(call)
    except RuntimeError:
        return inf


def pass_rates(dtype: torch.dtype) -> dict[str, float]:
    """GB/s of each kind of pass, by the bytes that the cost model counts for it."""
    rows, width, words = 2048, 512, 8192
    x = torch.randn(rows, width, device=device(), dtype=dtype, requires_grad=True)
    other = torch.randn(rows, width, device=device(), dtype=dtype, requires_grad=True)
    weight, bias = (torch.ones(width, device=device(), dtype=dtype, requires_grad=True) for _ in range(2))
    table = torch.randn(
        128, width, device=device(), dtype=dtype, requires_grad=True
    )  # a large one's gradient is a copy
    scores = torch.randn(rows // 8, words, device=device(), dtype=dtype, requires_grad=True)
    ids = torch.randint(128, (rows,), device=device())
    gradient = torch.randn(rows, width, device=device(), dtype=dtype)

    def both(result: Tensor) -> None:
        result.backward(gradient)

    def embedded() -> None:
        both(F.embedding(ids, table) + F.embedding(ids, table) + F.embedding(ids, table))

    def loss() -> None:
        vocab_parallel_cross_entropy(scores, ids[: rows // 8], words, TensorParallel())[0].sum().backward()

    calls: dict[str, tuple[Callable[[], object], int]] = {
        "norm": (lambda: both(F.layer_norm(x, (width,), weight, bias)), x.numel()),
        "activation": (lambda: both(F.gelu(x)), x.numel()),
        "residual": (lambda: both(x + other), x.numel()),
        "bias": (lambda: gradient.sum(0), x.numel()),
        "dropout": (lambda: both(dropout(x, 0.1)), x.numel()),
        "embedding": (embedded, x.numel()),
        "cross_entropy": (loss, scores.numel()),
    }
    found = {}
    for kind, (call, numel) in calls.items():
        found[kind] = 1e-9 * sum(MOVED[kind]) * dtype.itemsize * numel / median_seconds(call)
    return found | _update_rates()


def memory_rate(dtype: torch.dtype = torch.float32) -> float:
    """GB/s of a copy that no cache holds."""
    source = torch.ones(16 * 2**20, dtype=dtype, device=device())
    target = torch.empty_like(source)
    return 1e-9 * 2 * dtype.itemsize * source.numel() / median_seconds(lambda: target.copy_(source))


def launch_microseconds() -> float:
    """Of an operator on a few numbers, gradient included."""
    x = torch.ones(8, device=device(), requires_grad=True)
    count = 100

    def call() -> None:
        y = x
        for _ in range(count):
            y = y * 1.0
        y.backward(x.detach())

    return 1e6 * median_seconds(call) / (2 * count)


def _update_rates() -> dict[str, float]:
    found = {}
    optimizers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adamw": partial(AdamW, fused=True),
        "lamb": Lamb,
        "lans": Lans,
        "stableadamw": StableAdamW,
    }
    for name, optimizer in optimizers.items():
        tensors = [torch.randn(NUM_PARAMETERS // 8, device=device()).requires_grad_() for _ in range(8)]
        for tensor in tensors:
            tensor.grad = torch.randn_like(tensor)
        found[name] = 1e-9 * UPDATE_BYTES[name] * NUM_PARAMETERS / median_seconds(optimizer(tensors, lr=1e-6).step)
    flat = torch.randn(NUM_PARAMETERS, device=device())
    found["sum"] = 4e-9 * NUM_PARAMETERS / median_seconds(flat.norm)
    return found
