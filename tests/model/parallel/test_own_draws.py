"""Attention dropout under tensor parallelism in compiled blocks: one graph, which draws what is drawn without."""

from dataclasses import replace
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.utils import counters

from model import attention_kernels
from model.attention_kernels import with_dropout
from model.batch import Batch, Runs
from model.dropout import dropout
from model.parallel.own_draws import draws, in_graph
from pretrain.engine.compilation import compile_blocks
from tests.support.running import build, layout_of, random_batch, small_config
from tests.support.workers import pool


@with_dropout
def run_by_run(query, key, value, runs: Runs, probability: float, sight) -> Tensor:
    """A kernel for runs that has dropout, as flash-attn. All [T, n, d]."""
    parts = (x.tensor_split(runs.starts[1:-1].tolist()) for x in (query, key, value))
    context = []
    for q, k, v in zip(*parts, strict=True):
        weights = (torch.einsum("ind,jnd->nij", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        context.append(torch.einsum("nij,jnd->ind", dropout(weights, probability), v))
    return torch.cat(context)


def trained(batch: Batch, compiled: bool, recompute: bool) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Loss and gradients of this rank; graphs and breaks."""
    config = small_config(layers=2, attention_dropout=0.5)
    model = build(config, layout_of(2).install(), torch.float32).train()
    model.recompute = recompute
    with patch("torch.compile", partial(torch.compile, backend="aot_eager")):
        if compiled:
            compile_blocks(model)
        counters.clear()
        torch.manual_seed(5)
        loss = model(batch).loss
        loss.backward()
    found = {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return found, (counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))


def compiled_and_not(layout: str) -> tuple[float, list[tuple[int, int]]]:
    """The loss, and the graphs and breaks of each compiled model."""
    batch = random_batch(small_config(), layout)
    if layout == "packed":
        batch = replace(batch, runs=Runs.of(batch.segments))
    counts = []
    with patch.object(attention_kernels, "kernel_for_runs", lambda *_: run_by_run):
        expected, _ = trained(batch, compiled=False, recompute=False)
        for recompute in (False, True):
            found, count = trained(batch, compiled=True, recompute=recompute)
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=f"{name}, {recompute}")
            counts.append(count)
    return expected["loss"].item(), counts


@pytest.mark.parametrize("layout", ["padded", "packed"], ids=["mask", "runs"])
def test_a_block_compiles_whole_and_draws_the_same(layout):
    (loss, counts), (other, of_other) = pool(2).run(compiled_and_not, layout)
    assert loss == other, "what every rank holds is the same on all"
    assert counts == of_other == [(1, 0)] * 2, "one graph for both layers, without a break"


def drawn() -> list[Tensor]:
    """On all ranks: what each drew as its own in a graph, twice, then what it drew outside."""
    tp = layout_of(2).install()

    @partial(torch.compile, backend="aot_eager", fullgraph=True)
    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        return tp.draw_own(dropout, x, 0.5), tp.draw_own(dropout, x, 0.5)

    torch.manual_seed(5)
    parts = torch.cat([*twice(torch.ones(64)), torch.rand(1)])
    whole = [torch.empty_like(parts) for _ in range(2)]
    dist.all_gather(whole, parts)
    return whole


def test_ranks_draw_their_own_in_a_graph_and_the_same_outside():
    (one, other), _ = pool(2).run(drawn)
    assert not torch.equal(one[:64], one[64:128]) and not torch.equal(one[:64], other[:64])
    assert one[128] == other[128]


def test_a_function_draws_under_the_same_autograd_when_it_is_called_again():
    seen = []

    @draws
    def noting(x: Tensor, probability: float) -> Tensor:
        seen.append((x.requires_grad, torch.is_grad_enabled()))
        return x * probability

    x = torch.ones(4, requires_grad=True)
    y = in_graph(noting, (x, 0.5), 0)
    assert y.requires_grad and torch.autograd.grad(y.sum(), x)[0].tolist() == [0.5] * 4
    assert not in_graph(noting, (x.detach(), 0.5), 0).requires_grad, "as a compiler hands it over"
    assert seen == [(True, True)] * 3
