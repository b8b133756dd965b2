"""LAMB, LANS, StableAdamW and Muon inside the engine: moved and resumed bitwise, offloaded, clipped, in 16 bits."""

import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from deepspeed.accelerator import get_accelerator

from pretrain.engine.exchange import read_state
from pretrain.engine.move import move, start_engine
from pretrain.engine.norm import gradient_norm_before_step
from pretrain.engine.zero import destroy, fragments
from tests.support.harness import CONFIG, same, start, train, whole_state
from tests.support.sharded import OPTIONS, optimizer_settings
from tests.support.workers import pool

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
ODD = CONFIG.replace(hidden=36, head_dim=9, ffn=74, vocab_size=101)


def interrupted(name: str, tp: int, stage: int, precision: str, zero: dict) -> tuple:
    """Nine steps in one piece, and with a move after 3 and a restart from the state after 6."""
    settings = optimizer_settings(name, tp, stage, precision, **zero)
    config, lr = ODD if tp == 1 else CONFIG, OPTIONS[name]["lr"]
    engine = start(config, settings)
    expected = train(engine, 0, 9, lr)
    destroy(engine)
    del engine

    engine = start(config, settings)
    found = train(engine, 0, 3, lr)
    before = whole_state(read_state(engine))
    engine, _ = move(engine, settings)
    is_same = same(before, whole_state(read_state(engine)))
    found += train(engine, 3, 3, lr)
    state = read_state(engine)
    destroy(engine)
    del engine
    engine = start_engine(state, settings)
    found += train(engine, 6, 3, lr)
    destroy(engine)
    return is_same, expected, found


@pytest.mark.parametrize(
    ("name", "tp", "stage", "precision", "zero"),
    [
        pytest.param("lamb", 1, 1, "bf16", {}, id="lamb-zero1-bf16"),
        pytest.param("lamb", 2, 0, "bf16", {}, id="lamb-tp2-zero0-bf16"),
        pytest.param("lamb", 2, 2, "fp32", {}, id="lamb-tp2-zero2"),
        pytest.param("lamb", 1, 2, "bf16", {**OFFLOAD, "accumulation": 2}, id="lamb-zero2-bf16-offload"),
        pytest.param("lans", 2, 3, "bf16", {}, id="lans-tp2-zero3-bf16"),
        pytest.param("lans", 1, 0, "fp32", {}, id="lans-zero0"),
        pytest.param("lans", 1, 3, "fp32", OFFLOAD, id="lans-zero3-offload"),
        pytest.param("stableadamw", 2, 3, "bf16", {}, id="stableadamw-tp2-zero3-bf16"),
        pytest.param("stableadamw", 1, 1, "fp32", {"accumulation": 2}, id="stableadamw-zero1"),
        pytest.param("muon", 2, 2, "fp32", {"accumulation": 2}, id="muon-tp2-zero2"),
        pytest.param("muon-heads", 2, 0, "bf16", {}, id="muon-heads-tp2-zero0-bf16"),
        pytest.param("muon", 1, 3, "fp32", {**OFFLOAD, "sub_group_size": 5000}, id="muon-zero3-offload"),
    ],
)
def test_moves_and_restarts_are_bitwise(name, tp, stage, precision, zero):
    for is_same, expected, found in pool(2).run(interrupted, name, tp, stage, precision, zero):
        assert is_same
        assert found == expected


def losses(name: str, tp: int, stage: int, precision: str = "fp32", **zero) -> list[float]:
    engine = start(CONFIG, optimizer_settings(name, tp, stage, precision, **zero))
    result = train(engine, 0, 10, OPTIONS[name]["lr"])
    destroy(engine)
    return result


def offloaded(name: str, stage: int) -> list[float]:
    return losses(name, 1, stage, **OFFLOAD)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lans", "stableadamw"])
@pytest.mark.parametrize("stage", [2, 3])
def test_offload_follows_the_unsharded_trajectory(name, stage):
    expected = pool(1).run(losses, name, 1, 0)[0]
    for found in pool(2).run(offloaded, name, stage):
        assert found == pytest.approx(expected, rel=1e-6)


def norms(tp: int, stage: int, precision: str) -> list[float]:
    """The global norm before clipping of three steps. The clip, 0.5, is always active."""
    engine = start(CONFIG, optimizer_settings("lamb", tp, stage, precision))
    found = []
    original = engine.step

    def step():
        norm = gradient_norm_before_step(engine)
        original()
        found.append(float(engine.get_global_grad_norm()) if norm is None else norm)

    engine.step = step
    train(engine, 0, 3, 1e-3)
    destroy(engine)
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_clipped_norm_counts_replicated_parameters_once(stage, precision):
    (expected,) = pool(1).run(norms, 1, 0, precision)
    assert min(expected) > 0.5
    for found in pool(2).run(norms, 2, stage, precision):
        assert found == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 2e-2)


def in_fp16(name: str, tp: int, stage: int) -> tuple:
    """Types of what is kept, whether skipped steps leave the state alone, and the losses after them.

    DeepSpeed takes fp16 for unsupported on CPUs; it is only slow.
    """
    with patch.object(type(get_accelerator()), "is_fp16_supported", lambda self: True):
        settings = optimizer_settings(name, tp, stage, "fp16")
        scaler = {"initial_scale_power": 24, "hysteresis": 1}
        engine = start(CONFIG, replace(settings, deepspeed={**settings.deepspeed, "fp16": scaler}))
        kept = {tensor.dtype for fragment in fragments(engine).values() for tensor in fragment.tensors()}
        before = whole_state(read_state(engine))
        train(engine, 0, 1, OPTIONS[name]["lr"])
        is_same = engine.skipped_steps == 1 and same(before, whole_state(read_state(engine)))
        step = 1
        while engine.skipped_steps == step:
            train(engine, step, 1, OPTIONS[name]["lr"])
            step += 1
        found = train(engine, 30, 4, OPTIONS[name]["lr"])
        steps = {record.step for record in whole_state(read_state(engine)).values()}
        destroy(engine)
    return kept, is_same, steps == {5}, found


@pytest.mark.parametrize(("name", "tp", "stage"), [("lamb", 1, 2), ("lans", 2, 3), ("muon", 2, 1)])
def test_a_step_whose_scaled_loss_overflows_changes_nothing(name, tp, stage):
    for kept, is_same, steps_fit, found in pool(2).run(in_fp16, name, tp, stage):
        assert kept == {torch.float32}
        assert is_same
        assert steps_fit
        assert all(map(math.isfinite, found))


def types_kept(name: str, stage: int) -> tuple[set, set]:
    engine = start(CONFIG, optimizer_settings(name, 1, stage, "bf16"))
    train(engine, 0, 2)
    kept = {tensor.dtype for fragment in fragments(engine).values() for tensor in fragment.tensors()}
    weights = {parameter.dtype for parameter in engine.module.parameters()}
    destroy(engine)
    return kept, weights


@pytest.mark.parametrize(("name", "stage"), [("adamw", 0), ("lamb", 0), ("lans", 1), ("lamb", 2), ("lans", 3)])
def test_masters_and_moments_of_bf16_weights_are_fp32(name, stage):
    for kept, weights in pool(2).run(types_kept, name, stage):
        assert kept == {torch.float32}
        assert weights == {torch.bfloat16}
