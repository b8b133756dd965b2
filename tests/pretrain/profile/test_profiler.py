"""Profiling some steps of a real run on two ranks."""

import json

import pytest

from model.errors import UserError
from pretrain.cli.arguments import read_span
from pretrain.data import Corpus
from pretrain.engine.compilation import compile_blocks
from pretrain.profile.hook import Profiler, parts
from pretrain.profile.measure import single_stage, useful_flops
from pretrain.recipe import load_recipe, resolve
from pretrain.training.trainer import Trainer
from tests.support.running import build, small_config
from tests.support.tiny import tiny_recipe
from tests.support.workers import pool


def profiled_run(recipe, folder) -> None:
    corpus = Corpus.open(recipe.data.corpus)
    run = single_stage(resolve(recipe, corpus.vocab_size, 2), 0, 4)
    profiler = Profiler(2, 4, folder)
    trainer = Trainer(run, corpus, [profiler])
    trainer.fit()
    trainer.close()
    assert profiler.breakdown is not None


def test_a_profile_says_where_the_time_goes(corpus, tmp_path):
    pool(2).run(profiled_run, tiny_recipe(corpus, layout={"tensor_parallel": 2}), tmp_path)
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert set(profile["phases"]) == {"data", "forward", "backward", "optimizer", "hooks"}
    assert all(profile["phases"][phase] > 0 for phase in ("data", "forward", "backward", "optimizer"))
    parts = {"embeddings", "attention", "feedforward", "mlm", "loss"}
    for passed, phase in (("modules", "forward"), ("backward", "backward")):
        assert set(profile[passed]) == parts
        assert all(profile[passed].values())
        assert sum(profile[passed].values()) < profile["phases"][phase]
    assert sum(profile["phases"].values()) <= profile["step"]
    assert profile["communication"]["exposed"] > 0, "a CPU's tensor parallelism waits for its sums"
    assert set(profile["work"]) >= parts - {"loss"}
    assert profile["collectives"]["all_reduce"] > 0, "tensor parallelism sums activations"
    assert "<svg" in (tmp_path / "profile.html").read_text()
    trace = json.loads((tmp_path / "rank-00001.trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"forward", "module.attention"} <= names


def test_a_compiled_block_has_one_line_for_all_its_parts():
    model = build(small_config(layers=2))
    compile_blocks(model)
    assert [name for name, _ in parts(model)] == ["embeddings", "block", "block", "mlm", "pooler", "sentence"]


def test_a_span_of_steps():
    assert read_span("--profile-steps", "100:110") == (100, 110)
    assert read_span("--profile-steps", "") is None
    for wrong in ("100", "5:5", "a:b", "0:3"):
        with pytest.raises(UserError, match="--profile-steps"):
            read_span("--profile-steps", wrong)


def test_padding_makes_gradients_useless_and_not_the_optimizer_s_products():
    stage = resolve(load_recipe("muon-mini"), None, 1).stages[0]
    of_optimizer = stage.optimizer.chosen.step_flops(stage.config)
    half = stage.global_batch * stage.sequence / 2
    assert of_optimizer > 0
    assert useful_flops(stage, 3 * of_optimizer, half) == 2 * of_optimizer
