"""What the model's kernels reach: products of matrices, attention by kernel, mask and dropout, the loss."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.attention_kernels import KERNELS, WHOLE_RUN, Asked, fused_attention
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
        size = f"{num_rows} x {sequence}"
        if isinstance(work, str):
            yield {"kernel": name, "size": size, "not here": work}
        else:
            yield timed(name, size, work, budget, flops)
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


def attentions(config: BertConfig, num_rows: int, sequence: int) -> dict[str, Callable[[], Any] | str]:
    """Forward and backward of every kernel, over rows of two runs each where it can tell them apart; or why this one
    is not here."""
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

    found: dict[str, Callable[[], Any] | str] = {}
    for dropout in (0.0, 0.1):
        for kernel, called in (("fused", "torch's fused"), ("cudnn", "cuDNN")):
            for name, given in (("no mask", None), ("mask", mask)):
                found[f"{called}, {name}, dropout {dropout}"] = obstacle_to(kernel, head_dim, dropout) or both(
                    partial(over_rows, mask=given, dropout=dropout, kernel=kernel), inputs
                )
        for kernel in ("flash-attn-3", "flash-attn", "varlen"):
            found[f"{kernel}, runs, dropout {dropout}"] = obstacle_to(kernel, head_dim, dropout) or both(
                partial(over_runs, runs=runs, dropout=dropout, kernel=kernel), flat
            )
    return found


def obstacle_to(kernel: str, head_dim: int, dropout: float) -> str | None:
    obstacle = KERNELS[kernel].obstacle(Asked(device(), torch.bfloat16, head_dim, dropout))
    return f"{kernel} {obstacle}" if obstacle else None


def over_rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, kernel: str) -> Tensor:
    return fused_attention(query, key, value, mask, dropout, kernel)


def over_runs(query: Tensor, key: Tensor, value: Tensor, runs: Runs, dropout: float, kernel: str) -> Tensor:
    of_runs = KERNELS[kernel].over_runs
    assert of_runs is not None
    return of_runs(query, key, value, runs, dropout, WHOLE_RUN)


def loss(predicted: int, config: BertConfig, passes: Passes) -> Callable[[], Any]:
    scores = random(predicted, config.padded_vocab_size).requires_grad_()
    targets = torch.randint(config.vocab_size, (predicted,), device=device())

    def work() -> None:
        losses, _ = vocab_parallel_cross_entropy(scores, targets, config.vocab_size, TensorParallel(), passes)
        torch.autograd.grad(losses.sum(), scores)

    return work
