"""Packed rows in compiled blocks: the graphs of one for all, whatever the runs, and the same results.

The kernel is torch's varlen_attn, which has none for a CPU: here it gets one.
"""

from dataclasses import replace
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention import varlen

from model import attention_kernels
from model.batch import Batch, Runs
from pretrain.engine.compilation import compile_blocks
from tests.support.running import build, random_batch, small_config

BATCHES, LENGTH = 20, 32


def attention_map(query: Tensor, key: Tensor, starts: Tensor) -> Tensor:
    """[n, T, T] softmax(q k^T / sqrt(d)), each token over those of its own run."""
    run = torch.arange(len(starts) - 1).repeat_interleave(starts.diff())
    scores = torch.einsum("ind,jnd->nij", query, key) * query.shape[-1] ** -0.5
    return scores.masked_fill(run[:, None] != run, -torch.inf).softmax(-1)


def forward(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, *_, **__):
    context = torch.einsum("nij,jnd->ind", attention_map(query, key, starts), value).contiguous()
    return context, context.new_zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


def backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, context, lse, starts: Tensor, *_, **__):
    weights = attention_map(query, key, starts)
    of_weights = torch.einsum("ind,jnd->nij", gradient, value)
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * query.shape[-1] ** -0.5
    return (
        torch.einsum("nij,jnd->ind", of_scores, key).contiguous(),
        torch.einsum("nij,ind->jnd", of_scores, query).contiguous(),
        torch.einsum("nij,ind->jnd", weights, gradient).contiguous(),
    )


@pytest.fixture(scope="module", autouse=True)
def _a_kernel_for_cpus():
    varlen._varlen_attn.register_kernel("cpu")(forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(backward)


def batches(config) -> list[Batch]:
    """Packed in other ways every time."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(BATCHES):
        segments = 1 + (torch.rand(4, LENGTH, generator=generator) < 0.1).long().cumsum(1)
        batch = random_batch(config, rows=4, length=LENGTH, seed=number)
        found.append(replace(batch, segments=segments))
    return found


def losses(model, found: list[Batch]) -> list[float]:
    output = []
    for batch in found:
        loss = model(batch).loss
        loss.backward()
        output += [loss.item(), model.blocks[0].attention.query.weight.grad.norm().item()]
    return output


def test_blocks_over_packed_rows_compile_whole_and_once():
    config = small_config(layers=2, max_positions=LENGTH, hidden_dropout=0.0, attention_dropout=0.0)
    expected = losses(build(config, dtype=torch.float32).train(), batches(config))  # with a mask
    model = build(config, dtype=torch.float32).train()
    packed = [replace(batch, runs=Runs.of(batch.segments)) for batch in batches(config)]
    assert len({len(batch.runs.starts) for batch in packed}) > 2, "they differ"
    with (
        patch.object(attention_kernels, "kernel_for_runs", lambda *_: attention_kernels.torch_varlen),
        patch("torch.compile", partial(torch.compile, backend="aot_eager")),
    ):
        compile_blocks(model)
        counters.clear()
        found = losses(model, packed)
    assert found == pytest.approx(expected, rel=1e-4)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == counters["frames"]["ok"] == 2, "a static one, and one for all sizes"
