"""Muon in an engine: what it keeps, on disk and under another layout; and models that not every layer trains alike."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from growth.state import MOMENTS
from model.config import BertConfig
from model.parameters import parameter_table
from pretrain.checkpoint import load_checkpoint
from pretrain.checkpoint.store import CheckpointStore
from pretrain.engine.exchange import read_state
from pretrain.engine.move import start_engine
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, same, start, train, whole_state
from tests.support.muon_reference import is_matrix, step_error
from tests.support.sharded import OPTIONS, optimizer_settings
from tests.support.workers import pool

LR, DECAY = OPTIONS["muon"]["lr"], OPTIONS["muon"]["weight_decay"]
FROM, TO = ("muon", 1, 1), ("muon", 2, 3)


def saved_and_loaded(folder: Path) -> tuple[bool, bool, list[float], list[float]]:
    """Through a checkpoint to another layout and ZeRO stage: the state there, and the losses with and without it."""
    engine = start(CONFIG, optimizer_settings(*FROM))
    train(engine, 0, 3, LR)
    state = read_state(engine)
    before = whole_state(state)
    CheckpointStore(folder, in_background=False).save(3, state, {})
    uninterrupted = train(engine, 3, 3, LR)
    destroy(engine)
    del engine
    loaded, _ = load_checkpoint(folder / "step-00000003")
    engine = start_engine(loaded, optimizer_settings(*TO))
    after = whole_state(read_state(engine))
    continued = train(engine, 3, 3, LR)
    destroy(engine)
    squares = {name for name, record in after.items() if record.exp_avg_sq is None}
    return same(before, after), squares == set(filter(is_matrix, after)), uninterrupted, continued


def test_a_checkpoint_holds_one_moment_of_matrices_and_resumes_under_another_layout(tmp_path):
    for is_same, only_matrices, uninterrupted, continued in pool(2).run(saved_and_loaded, tmp_path):
        assert is_same
        assert only_matrices
        assert continued == pytest.approx(uninterrupted, rel=1e-5)
    entries = json.loads((tmp_path / "step-00000003" / "index.json").read_text())["parameters"]
    stored = set()
    for file in {entry["file"] for entry in entries.values()}:
        with safe_open(tmp_path / "step-00000003" / file, framework="pt") as tensors:
            stored |= set(tensors.keys())
    for name in parameter_table(CONFIG):
        kept = {moment for moment in MOMENTS if f"{name}/{moment}" in stored}
        assert kept == ({"exp_avg"} if is_matrix(name) else set(MOMENTS))
        assert ("moments" in entries[name]) == is_matrix(name), "an index says so only where it differs"


VARIANTS = {
    "shared": CONFIG.replace(layers=4, sharing=2),
    "frozen": CONFIG.replace(layers=3, frozen_layers=1),
    "dropped": CONFIG.replace(layers=3, norm="pre", layer_drop={"keep": 0.3, "gamma": 5.0}),
    "masked": CONFIG.replace(masked={"hidden": 24, "ffn": 60, "steps": 6}),
    "low-rank": CONFIG.replace(low_rank={"attention.query": 5, "feedforward.output": 7}),
}
CELLS = {"shared": (2, 2), "frozen": (1, 1), "dropped": (1, 0), "masked": (1, 3), "low-rank": (2, 3)}
OFFLOADED = {"offload_optimizer": {"device": "cpu"}}


def one_step_of_each() -> dict[str, tuple[float, bool]]:
    """The error of a step, and whether what is frozen has stayed."""
    errors = {}
    runs = [(kind, config, optimizer_settings("muon", *CELLS[kind])) for kind, config in VARIANTS.items()]
    runs += [(f"offload {stage}", CONFIG, optimizer_settings("muon", 1, stage, **OFFLOADED)) for stage in (2, 3)]
    for kind, config, settings in runs:
        engine = start(config, settings)
        engine.module.begin_step(3, 3, 0)
        train(engine, 0, 2, LR)
        before = whole_state(read_state(engine))
        train(engine, 2, 1, LR)
        after = whole_state(read_state(engine))
        destroy(engine)
        del engine
        errors[kind] = _compared(config, before, after)
    return errors


def _compared(config: BertConfig, before: dict, after: dict) -> tuple[float, bool]:
    trained = {name for name, spec in parameter_table(config).items() if spec.trainable}
    frozen = before.keys() - trained
    stays = same({name: before[name] for name in frozen}, {name: after[name] for name in frozen})
    error = step_error({name: before[name] for name in before if name in trained}, after, LR, DECAY)
    return float(error), stays


def test_models_of_which_not_every_layer_trains_alike():
    """A shared block's mean gradient, frozen layers, a dropped layer, masked units, factors of low rank; and what lies
    in the host's memory."""
    for errors in pool(2).run(one_step_of_each):
        for kind, (error, stays) in errors.items():
            assert error < 1e-4, kind
            assert stays, kind
