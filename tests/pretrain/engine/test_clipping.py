"""Each rank clips its gradient before the ranks average theirs: compared with numpy on whole gradients."""

import gc
import weakref
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_grad

from growth.operators import make_operator, shape_change
from growth.operators.base import Inputs
from growth.state import Record
from model.config import BertConfig
from model.parameters import parameter_table
from pretrain.engine.build import EngineSettings, build_model
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.spread import fetch_from
from pretrain.engine.zero import destroy
from pretrain.optim.buckets import gradient_buckets
from tests.support.harness import (
    CONFIG,
    GLOBAL_ROWS,
    MASKED_PER_ROW,
    global_batch,
    rows,
    same,
    settings,
    start,
    train,
    whole_state,
)
from tests.support.running import ALONE
from tests.support.workers import pool

NORM, MEGABYTES = 1.6, 0.016
Gradients = dict[str, np.ndarray]


def clipping(tp: int, stage: int, precision: str = "fp32", **others: Any) -> EngineSettings:
    return replace(settings(tp, stage, precision, **others), grad_clip=NORM, clip_bucket_mb=MEGABYTES)


def test_buckets_follow_the_table():
    """Frozen parameters are in none; each bucket takes what fits, and a larger parameter is alone."""
    config, largest = CONFIG.replace(frozen_layers=1), 2000
    table, buckets = parameter_table(config), gradient_buckets(config, 4e-6 * largest)
    assert [name for bucket in buckets for name in bucket] == [name for name, spec in table.items() if spec.trainable]
    sizes = [[table[name].numel for name in bucket] for bucket in buckets]
    assert all(sum(one) <= largest or len(one) == 1 for one in sizes) and max(map(sum, sizes)) > largest
    assert all(sum(one) + following[0] > largest for one, following in pairwise(sizes))


def clipped(gradients: Gradients, config: BertConfig) -> tuple[Gradients, list[bool]]:
    """A rank's, and which of its buckets are too large. In float64 but for the product itself."""
    buckets = gradient_buckets(config, MEGABYTES)
    result, too_large = {}, []
    for bucket in buckets:
        norm = np.sqrt(sum(np.sum(gradients[name].astype(np.float64) ** 2) for name in bucket))
        factor = NORM / (np.sqrt(len(buckets)) * max(norm, NORM / np.sqrt(len(buckets))))
        result |= {name: gradients[name] * np.float32(factor) for name in bucket}
        too_large.append(norm > NORM / np.sqrt(len(buckets)))
    return result, too_large


def whole_gradients(
    config: BertConfig, weights: Mapping[str, Record], step: int, rank: int, accumulation: int
) -> Gradients:
    """Of one of two data-parallel ranks, over its micro-batches, by a model without DeepSpeed."""
    model = build_model(config, ALONE, torch.float32)
    model.load_weights(lambda name: weights[name].weight)
    micro = GLOBAL_ROWS // 2 // accumulation
    batch, scale = global_batch(config, step), 2 * accumulation
    for index in range(accumulation):
        part = rows(batch, (rank * accumulation + index) * micro, micro)
        output = model(part, scale / (GLOBAL_ROWS * MASKED_PER_ROW), scale / GLOBAL_ROWS)
        (output.loss / accumulation).backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def reduced(
    stage: int, accumulation: int, grows: bool, zero: dict[str, Any]
) -> tuple[list[str], list[list[bool]], float]:
    """Of the fourth step: gradients that differ from the reference's mean over two ranks, what each rank had too large,
    and the largest norm of a rank."""
    chosen = clipping(1, stage, accumulation=accumulation, **zero)
    engine = start(CONFIG, chosen)
    train(engine, 0, 3)
    if grows:
        old, operators = weakref.ref(engine.module), [make_operator("stack", {})]
        engine, _ = move(
            engine, chosen, lambda state: shape_change(CONFIG, operators, {"layers": 4}, Inputs(fetch_from(state)))
        )
        gc.collect()
        assert old() is None, "what clips keeps the old engine alive"
    config, weights, found = engine.module.config, whole_state(read_state(engine)), {}

    def look() -> None:
        if engine.is_gradient_accumulation_boundary():
            for name, parameter in engine.module.named_parameters():
                found[name] = safe_get_full_grad(parameter).numpy().copy()

    train(engine, 3, 1, before_step=look)
    destroy(engine)
    ranks = [clipped(whole_gradients(config, weights, 3, rank, accumulation), config) for rank in range(2)]
    (first, _), (second, _) = ranks
    differing = [name for name in found if not np.array_equal(found[name], first[name] / 2 + second[name] / 2)]
    norms = [np.sqrt(sum(np.sum(gradient.astype(np.float64) ** 2) for gradient in own.values())) for own, _ in ranks]
    return differing, [too_large for _, too_large in ranks], max(norms)


@pytest.mark.parametrize(
    ("stage", "accumulation", "grows", "zero"),
    [
        pytest.param(1, 1, False, {}, id="zero1"),
        pytest.param(1, 2, False, {"overlap_comm": True, "reduce_bucket_size": 5000}, id="zero1-two-micro-batches"),
        pytest.param(2, 1, True, {}, id="zero2-grown"),
        pytest.param(2, 2, False, {"reduce_bucket_size": 5000}, id="zero2-two-micro-batches"),
        pytest.param(2, 2, False, {"offload_optimizer": {"device": "cpu"}}, id="zero2-offload"),
    ],
)
def test_it_is_numpys_on_whole_gradients(stage, accumulation, grows, zero):
    """Bit for bit: halves of two ranks are summed in either order, and one rounding is left."""
    for differing, too_large, largest in pool(2).run(reduced, stage, accumulation, grows, zero):
        assert not differing
        assert {True, False} == {*too_large[0]} and too_large[0] != too_large[1]
        assert 0 < largest <= NORM * (1 + 1e-6)


def norms(tp: int, sequence_parallel: bool, precision: str = "fp32") -> list[float]:
    """Of the clipped gradients of three steps; a scale of the loss is taken out."""
    with patch.object(type(get_accelerator()), "is_fp16_supported", lambda self: True):
        chosen = replace(clipping(tp, 2, precision, accumulation=2), sequence_parallel=sequence_parallel)
        scaled = {**chosen.deepspeed, "fp16": {"initial_scale_power": 8}}
        engine = start(CONFIG, replace(chosen, deepspeed=scaled if precision == "fp16" else chosen.deepspeed))
        found = []
        for step in range(3):
            train(engine, step, 1, 1e-3)
            found.append(float(engine.get_global_grad_norm()))
        destroy(engine)
    return found


@pytest.fixture(scope="module")
def unsharded() -> list[float]:
    (found,) = pool(1).run(norms, 1, False)
    assert max(found) < NORM
    return found


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_norms_are_those_of_whole_parameters(unsharded, sequence_parallel):
    for found in pool(2).run(norms, 2, sequence_parallel):
        assert found == pytest.approx(unsharded, rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_clips_to_the_same_norm(unsharded, precision):
    (found,) = pool(1).run(norms, 1, False, precision)
    assert found == pytest.approx(unsharded, rel=2e-2)


def with_an_infinity() -> tuple[int, bool]:
    """A gradient of rank 1 has one: steps skipped, and whether the state stays."""
    engine = start(CONFIG, clipping(1, 2))
    before = whole_state(read_state(engine))
    if dist.get_rank() == 1:
        engine.module.mlm.bias.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    train(engine, 0, 1)
    found = engine.skipped_steps, same(before, whole_state(read_state(engine)))
    destroy(engine)
    return found


def test_an_infinity_on_one_rank_skips_the_step():
    """Scaling by 0 would hide it."""
    assert pool(2).run(with_an_infinity) == [(1, True), (1, True)]
