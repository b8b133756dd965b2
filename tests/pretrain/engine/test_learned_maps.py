"""LiGO's maps learned on ranks are those that plain autograd learns through the whole model, in any layout."""

import pytest
import torch
from torch.func import functional_call

from growth.learned_maps import LearnedMaps, Learning
from growth.state import fresh_state
from model.batch import Batch
from model.bert import BertForPreTraining
from model.parameters import parameter_table
from pretrain.engine.learned_maps import LARGEST_NORM, LearningRows, learn_maps
from pretrain.engine.spread import fetch_from
from tests.support.harness import CONFIG, GLOBAL_ROWS, MASKED_PER_ROW, global_batch, rows
from tests.support.running import layout_of
from tests.support.workers import pool

TARGET = CONFIG.replace(layers=3, hidden=40, heads=6, ffn=80)
LEARNING = Learning(steps=6, lr=2e-2, weight_decay=0.1)
SCALES = 1 / (GLOBAL_ROWS * MASKED_PER_ROW), 1 / GLOBAL_ROWS


def batch_of(step: int) -> Batch:
    """Two in turn: the loss of each falls."""
    return global_batch(CONFIG, step % 2)


Learned = tuple[list[torch.Tensor], list[float]]


def learned(tp: int, micro: int, dtype: torch.dtype = torch.float64) -> Learned:
    """On every rank, from a state that is spread over them, in micro-batches of so many rows."""
    import torch.distributed as dist

    layout = layout_of(tp)
    state = fresh_state(CONFIG, 1, dist.get_rank(), dist.get_world_size())
    count, step = GLOBAL_ROWS // layout.data_parallel, iter(range(LEARNING.steps))
    first = dist.get_rank() // tp * count

    def read() -> LearningRows:
        batch = batch_of(next(step))
        return LearningRows([rows(batch, start, micro) for start in range(first, first + count, micro)], *SCALES)

    maps = LearnedMaps.drawn(CONFIG, TARGET, seed=3)
    found, losses = learn_maps(maps, LEARNING, fetch_from(state), layout, dtype, read)
    return found.tensors(), losses


@pytest.fixture(scope="module")
def by_autograd() -> Learned:
    """All weights as one function of the maps, and one backward pass through both."""
    state = fresh_state(CONFIG, 1).records
    drawn = LearnedMaps.drawn(CONFIG, TARGET, seed=3)
    maps = drawn.each(lambda tensor: tensor.double().requires_grad_())
    optimizer = torch.optim.AdamW(maps.tensors(), LEARNING.lr, weight_decay=LEARNING.weight_decay)
    model, losses = BertForPreTraining(TARGET).double().eval(), []
    table, frozen = parameter_table(TARGET), {name: record.weight.clone() for name, record in state.items()}
    for step in range(LEARNING.steps):
        weights = {}
        for name, parameter in model.named_parameters():
            old = torch.stack([state[source].weight.double() for source in maps.sources(table[name])])
            weight = maps.grown(table[name], old)
            padding = len(parameter) - len(weight) if table[name].axes[0].name == "vocabulary" else 0
            weights[name] = torch.cat([weight, weight.new_zeros(padding, *weight.shape[1:])]).reshape(parameter.shape)
        loss = functional_call(model, weights, (batch_of(step), *SCALES)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(maps.tensors(), LARGEST_NORM)
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.equal(state[name].weight, weight) for name, weight in frozen.items())
    return [tensor.detach() for tensor in maps.tensors()], losses


@pytest.mark.parametrize(("ranks", "tp", "micro"), [(1, 1, 4), (2, 1, 2), (2, 2, 8), (4, 2, 4)])
def test_any_layout_learns_what_plain_autograd_learns(by_autograd, ranks, tp, micro):
    """Sums over rows and ranks in another order, in float64. The loss of the same rows falls."""
    expected, expected_losses = by_autograd
    results = pool(ranks).run(learned, tp, micro)
    for tensors, losses in results:
        assert losses == pytest.approx(expected_losses, rel=1e-12)
        for first, second, third in (losses[::2], losses[1::2]):
            assert third < second < first - 0.01
        for tensor, same, other in zip(tensors, results[0][0], expected, strict=True):
            assert torch.equal(tensor, same)
            torch.testing.assert_close(tensor, other, rtol=1e-8, atol=1e-9)


def test_in_bf16_the_maps_are_fp32_and_close():
    ((tensors, losses),) = pool(1).run(learned, 1, 8, torch.bfloat16)
    ((_, exact),) = pool(1).run(learned, 1, 8, torch.float32)
    assert all(tensor.dtype == torch.float32 for tensor in tensors)
    assert losses == pytest.approx(exact, abs=0.02)
