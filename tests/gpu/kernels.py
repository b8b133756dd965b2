"""What the model's kernels reach: products of matrices, attention by kernel, mask and dropout, the loss."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model import attention_kernels
from model.batch import Runs
from model.config import BertConfig
from model.loss import IN_CHUNKS, Passes, vocab_parallel_cross_entropy
from model.parallel.tensor import TensorParallel
from pretrain.engine.compilation import compiled_loss
from pretrain.engine.distributed import computes_on_gpu, device
from tests.gpu.timing import seconds_of

PREDICTED = 0.15


def rows(config: BertConfig, num_rows: int, sequence: int, largest: int, budget: float) -> Iterator[dict[str, Any]]:
    """`largest`: of a square product, for the limit; `budget`: seconds for each kernel."""
    tokens = num_rows * sequence
    predicted = round(PREDICTED * tokens)
    products = {
        "limit": (largest, largest, largest),
        "attention's linear": (tokens, config.hidden, config.hidden),
        "query, key and value as one": (tokens, config.hidden, 3 * config.hidden),
        "feed-forward, in": (tokens, config.hidden, config.ffn),
        "feed-forward, out": (tokens, config.ffn, config.hidden),
        "words": (predicted, config.hidden, config.padded_vocab_size),
    }
    for name, (m, k, n) in products.items():
        left, right = random(m, k), random(k, n)
        seconds = seconds_of(lambda left=left, right=right: left @ right, budget)
        yield {"kernel": name, "size": f"{m} x {k} x {n}", "ms": seconds * 1e3, "TFLOP/s": 2e-12 * m * k * n / seconds}
    for name, work in attentions(config, num_rows, sequence).items():
        flops = 3.5 * 4 * num_rows * sequence**2 * config.hidden  # forward and backward, as if a row were one run
        yield timed(name, f"{num_rows} x {sequence}", work, budget, flops)
    passes = {"in chunks": IN_CHUNKS} | ({"compiled": compiled_loss()} if computes_on_gpu() else {})
    for name, how in passes.items():
        yield timed(f"loss {name}, forward and backward", f"{predicted}", loss(predicted, config, how), budget)


def timed(name: str, size: str, work: Callable[[], Any], budget: float, flops: float = 0.0) -> dict[str, Any]:
    try:
        seconds = seconds_of(work, budget)
    except Exception as error:  # not every kernel takes every case
        return {"kernel": name, "size": size, "error": f"{type(error).__name__}: {error}"[:200]}
    return {"kernel": name, "size": size, "ms": seconds * 1e3} | ({"TFLOP/s": flops / seconds / 1e12} if flops else {})


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device=device(), dtype=torch.bfloat16)


def attentions(config: BertConfig, num_rows: int, sequence: int) -> dict[str, Callable[[], Any]]:
    """Forward and backward of every kernel, over rows of two runs each where it can tell them apart."""
    heads: Any = config.heads  # plain: a number
    head_dim = config.hidden // heads
    inputs = [random(num_rows, heads, sequence, head_dim).requires_grad_() for _ in range(3)]
    flat = [random(num_rows * sequence, heads, head_dim).requires_grad_() for _ in range(3)]
    segments = (1 + (torch.arange(sequence) >= sequence // 2).long()).expand(num_rows, -1).contiguous()
    runs = Runs.of(segments)
    runs = replace(runs, starts=runs.starts.to(device()))
    mask = (segments[:, None, :, None] == segments[:, None, None, :]).to(device())

    def both(forward: Callable[..., Tensor], tensors: list[Tensor]) -> Callable[[], Any]:
        def work() -> None:
            context = forward(*tensors)
            torch.autograd.grad(context, tensors, context)

        return work

    found = {}
    for dropout in (0.0, 0.1):
        for name, given in (("no mask", None), ("mask", mask)):
            found[f"torch's fused, {name}, dropout {dropout}"] = both(
                lambda q, k, v, given=given, p=dropout: F.scaled_dot_product_attention(q, k, v, given, p), inputs
            )
        for name, kernel in (("flash-attn", attention_kernels.flash_attn), ("varlen", attention_kernels.torch_varlen)):
            found[f"{name}, runs, dropout {dropout}"] = both(
                lambda q, k, v, kernel=kernel, p=dropout: kernel(q, k, v, runs, p), flat
            )
    return found


def loss(predicted: int, config: BertConfig, passes: Passes) -> Callable[[], Any]:
    scores = random(predicted, config.padded_vocab_size).requires_grad_()
    targets = torch.randint(config.vocab_size, (predicted,), device=device())

    def work() -> None:
        losses, _ = vocab_parallel_cross_entropy(scores, targets, config.vocab_size, TensorParallel(), passes)
        torch.autograd.grad(losses.sum(), scores)

    return work
