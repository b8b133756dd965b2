"""All that holds for every operator, checked for one, wherever it is defined: for its test.

from pretrain.use.check_operator import check_operator

def test_drop_layers():
    check_operator(DropLayers(), {"layers": 1})
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch.utils.flop_counter import FlopCounterMode

from growth.change import ShapeChange
from growth.operators import shape_change
from growth.operators.base import Inputs, Operator
from growth.state import Fetch, Record, TrainingState, fresh_state
from growth.testing import (
    LENGTH,
    MASKED,
    ROWS,
    Gradients,
    Tier,
    assert_in_size,
    assert_one_moment_suffices,
    assert_records,
    assert_tier,
    batch_of,
    generic_state,
    mapped,
    ratios,
    trained,
    with_one_moment,
)
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from model.parameters import parameter_table
from pretrain.cost.flops import training_flops
from pretrain.engine.build import EngineSettings
from pretrain.engine.distributed import process_group
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move, start_engine
from pretrain.engine.spread import fetch_from
from pretrain.engine.zero import basic_optimizer, destroy
from pretrain.optim.adamw import adamw

SMALL = BertConfig(
    **dict(layers=2, hidden=64, heads=8, head_dim=8, ffn=96, vocab_size=128, max_positions=16),
    **dict(sentence_head=False, hidden_dropout=0.0, attention_dropout=0.0),
)
"""Wide enough that the mean square of a bias says something; its vocabulary needs no padding."""
STEPS = 3


def check_operator(
    operator: Operator, wanted: Mapping[str, Any], source: BertConfig = SMALL, tier: Tier = 3, in_engine: bool = True
) -> None:
    """Raises AssertionError where an operator does not do on `source` what every operator must, by `tier` (growth.md).

    `wanted`: what a stage's `shape` asks for. A saved state that it reads is a fresh one of the shape `source`. With
    `in_engine` it is also applied in a DeepSpeed engine of one process, under each ZeRO stage.
    """
    state = generic_state(source)
    change = _change(operator, source, wanted, state.__getitem__)
    assert_records(change, state)
    assert_tier(change, tier)
    assert_updates_keep_their_size(operator, source, wanted)
    as_with_muon = with_one_moment(source, state)
    assert_one_moment_suffices(_change(operator, source, wanted, as_with_muon.__getitem__), as_with_muon)
    for config in (source, change.target):
        assert_flops_are_counted(config)
    if in_engine:
        with nullcontext() if dist.is_initialized() else process_group():
            for zero_stage in range(4):
                assert_same_in_an_engine(operator, source, wanted, zero_stage)


def assert_updates_keep_their_size(operator: Operator, source: BertConfig, wanted: Mapping[str, Any]) -> None:
    """The mean square of an update stays within a factor of 1.5, but where a parameter starts over."""
    stream = Gradients(source)
    state, sizes = trained(source, stream.draw)
    change = _change(operator, source, wanted, state.__getitem__)
    assert_in_size(ratios(change, state, sizes, mapped(change, state, stream.draw)))


def assert_flops_are_counted(config: BertConfig) -> None:
    """The formula for a training step is what torch counts."""
    model = BertForPreTraining(config).train()
    model.begin_step(step=0, steps_masked=1, seed=0)
    with FlopCounterMode(display=False) as counter:
        model(batch_of(config)).loss.backward()
    formula = training_flops(config, ROWS, LENGTH, ROWS * len(MASKED))
    assert counter.get_total_flops() == formula, f"a step is {counter.get_total_flops()} FLOPs, the formula {formula}"


def assert_same_in_an_engine(
    operator: Operator, source: BertConfig, wanted: Mapping[str, Any], zero_stage: int
) -> None:
    """Trains, changes the shape in memory, and trains on: the state read back is the change of the whole state, bit for
    bit, and steps are counted on from the number the change gave them."""
    settings = EngineSettings(
        layout=ParallelLayout(1, dist.get_world_size()),
        micro_batch=ROWS,
        accumulation=1,
        precision="fp32",
        make_optimizer=adamw((0.9, 0.98), 1e-6),
        deepspeed={"zero_optimization": {"stage": zero_stage}},
    )
    engine = start_engine(fresh_state(source, seed=1), settings)
    _train(engine)
    before = _whole(read_state(engine))
    change = _change(operator, source, wanted, before.__getitem__)
    expected = {name: change.record(name, before.__getitem__) for name in parameter_table(change.target)}
    engine, _ = move(engine, settings, lambda state: _change(operator, source, wanted, fetch_from(state)))
    after = _whole(read_state(engine))
    _train(engine)
    last = _whole(read_state(engine))
    destroy(engine)
    for name, record in expected.items():
        pairs = zip(record.tensors(), after[name].tensors(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs), (
            f"{name} differs in an engine, ZeRO {zero_stage}"
        )
        assert last[name].step == record.step + STEPS, f"{name} is at step {last[name].step}, ZeRO {zero_stage}"


def _change(operator: Operator, source: BertConfig, wanted: Mapping[str, Any], fetch: Fetch) -> ShapeChange:
    saved = fresh_state(source, seed=9).records
    inputs = Inputs(fetch, saved=lambda path: (source, saved.__getitem__))
    return shape_change(source, [operator], wanted, inputs)


def _train(engine: DeepSpeedEngine) -> None:
    for step in range(STEPS):
        for group in basic_optimizer(engine).param_groups:
            group["lr"] = 1e-3
        output = engine(batch_of(engine.module.config, step), 1 / (ROWS * len(MASKED)), 1 / ROWS)
        engine.backward(output.loss)
        engine.step()


def _whole(state: TrainingState) -> dict[str, Record]:
    fetch = fetch_from(state)
    return {name: fetch(name) for name in parameter_table(state.config)}
