"""The attention kernel of a run: tried at the start, kept after that, replaced only where it is lost."""

import time
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import get_args
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import attention, attention_kernels
from model.attention_kernels import KERNELS, AttentionKernel
from model.batch import Runs
from model.errors import UserError
from pretrain.checkpoint.progress import Progress
from pretrain.profile.measure import measure
from pretrain.recipe import resolve
from pretrain.recipe.schema import AttentionKernel as Named
from pretrain.training import attention as choice
from pretrain.training import stages
from pretrain.training.attention import try_kernels
from pretrain.training.preflight import check_attention_kernel
from pretrain.training.train import train
from tests.support.running import build, random_batch, small_config
from tests.support.tiny import stop_message, tiny_recipe, train_until, write_recipe
from tests.support.workers import pool

ABSENT = AttentionKernel(lambda asked: "is not here")
SHORT = dict(schedule={"warmup": 1}, stages=[{"name": "only", "steps": 5}], validation={"rows": 8})


def late(function, seconds: float = 0.3):
    def after_a_while(*arguments):
        time.sleep(seconds)
        return function(*arguments)

    return after_a_while


def over_runs(query: Tensor, key: Tensor, value: Tensor, runs: Runs, dropout: float, sight) -> Tensor:
    """As a kernel of a GPU. [T, n, d]"""
    parts = (x.transpose(0, 1).tensor_split(runs.starts[1:-1].tolist(), 1) for x in (query, key, value))
    return torch.cat([F.scaled_dot_product_attention(*part) for part in zip(*parts, strict=True)], 1).transpose(0, 1)


def refusing(*arguments) -> Tensor:
    raise RuntimeError("not with these shapes")


def test_all_that_can_do_it_are_timed():
    config = small_config(attention_dropout=0.1)
    batch = random_batch(config, "packed")
    nothing = KERNELS["products"].obstacle
    made_up = {
        "quick": AttentionKernel(nothing, over_runs),
        "slow": AttentionKernel(nothing, late(over_runs)),
        "refusing": AttentionKernel(nothing, refusing),
    }
    names = ["products", "fused", *made_up]
    before = torch.get_rng_state()
    with patch.dict(KERNELS, made_up):
        found = try_kernels(config, replace(batch, runs=Runs.of(batch.segments)), torch.float32, 4, names)
        without = try_kernels(config, batch, torch.float32, 4, names)
    assert found.keys() == {"products", "fused", "quick", "slow"} and without.keys() == {"products", "fused"}
    assert found["slow"] > 0.3 > found["quick"] > 0
    assert torch.equal(torch.get_rng_state(), before)


def started(recipe, folder: Path, step: int, changes: ExitStack) -> tuple[list[tuple[str | None, str | None]], str]:
    """Trains to a step. The kernels of its engine, and what it says of them."""
    kernels, start_engine, said = [], stages.start_engine, StringIO()

    def starting(state, settings):
        kernels.append((settings.attention_kernel, settings.kernel_for_runs))
        return start_engine(state, settings)

    with changes, patch.object(stages, "start_engine", starting), redirect_stderr(said):
        train_until(recipe, folder, step)
    return kernels, "\n".join(line for line in said.getvalue().splitlines() if "attention kernel" in line)


def changed(*patches) -> ExitStack:
    stack = ExitStack()
    for each in patches:
        stack.enter_context(each)
    return stack


def runs(corpus: Path, folder: Path) -> list:
    recipe = tiny_recipe(corpus, attention_kernel="trial", **SHORT)
    slow_products = patch.object(attention, "attention_map", late(attention.attention_map))
    no_trial = patch.object(choice, "try_kernels", None)
    first = started(recipe, folder / "run", 1, changed(slow_products))
    resumed = started(recipe, folder / "run", 2, changed(no_trial))
    elsewhere = started(recipe, folder / "run", 3, changed(patch.dict(KERNELS, fused=ABSENT)))
    usual = started(tiny_recipe(corpus, **SHORT), folder / "run", 4, changed(no_trial))
    fixed = dict(deterministic=True, **SHORT)
    started(tiny_recipe(corpus, attention_kernel="fused", **fixed), folder / "fixed", 1, changed())
    with patch.dict(KERNELS, fused=ABSENT):
        refused = stop_message(train, tiny_recipe(corpus, attention_kernel="trial", **fixed), folder / "fixed")
    return [first, resumed, elsewhere, usual, refused]


def test_the_fastest_is_kept_until_it_is_lost(corpus, tmp_path):
    [[first, resumed, elsewhere, usual, refused]] = pool(1).run(runs, corpus, tmp_path)
    assert first[0] == [("fused", None)]
    assert first[1].startswith("espalier: attention kernel fused, the fastest of a trial: fused ")
    assert ", products " in first[1] and first[1].endswith(" ms")
    assert resumed == ([("fused", None)], "")
    assert elsewhere[0] == [("products", None)]
    assert "the run was begun with attention kernel fused, which is not here: another will round" in elsewhere[1]
    assert usual == ([(None, None)], ""), "on a CPU products are taken unless asked for others"
    assert "which is not here: with another it would not have the same bits; resume it where it was" in refused


@pytest.fixture
def chosen(monkeypatch):
    """A function: the kernels that a run on a GPU without flash-attn prefers and prefers for rows with runs, the stage
    that it timed, and what it says. Trials find the given seconds."""

    def choose(seconds=(), kept=None, on_gpu=True, not_on_other_ranks=(), **changes):
        timed, said = [], []

        def try_kernels(config, rows, dtype, num_heads, names):
            timed.append(rows)
            return {name: dict(seconds)[name] for name in names if name in dict(seconds)}

        def largest(*missing: bool) -> list[bool]:
            return [own or name in not_on_other_ranks for own, name in zip(missing, KERNELS, strict=True)]

        place = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
        for name, stand_in in {
            "computes_on_gpu": lambda: on_gpu,
            "device": lambda: place,
            "one_micro_batch": lambda trainer, stage: stage.name,
            "try_kernels": try_kernels,
            "first_message": lambda own: own,
            "largest": largest,
            "say_once": said.append,
        }.items():
            monkeypatch.setattr(choice, name, stand_in)
        monkeypatch.setattr(attention_kernels, "capability", lambda device: (9, 0))
        for name in ("flash_attn_varlen_func", "flash_attn_3_varlen_func"):
            monkeypatch.setattr(attention_kernels, name, None)
        freed = []
        for name in ("empty_cache", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, lambda name=name: freed.append(name))
        run = resolve(recipe_of(**changes), 128, 1)
        progress = Progress(attention_kernel=kept, kernel_for_runs=kept)
        choice.choose_attention_kernel(SimpleNamespace(run=run, stage=run.stages[0], progress=progress))
        assert len(freed) == 2 * len(timed) * on_gpu
        return progress.attention_kernel, progress.kernel_for_runs, timed, said

    return choose


TWO = [{"name": "short", "steps": 4, "sequence": 16}, {"name": "long", "steps": 4, "sequence": 32}]
UNDROPPED = [TWO[0], TWO[1] | {"shape": {"attention_dropout": 0.0}}]


def recipe_of(model: dict | None = None, **changes):
    shape = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32) | (model or {})
    return tiny_recipe(Path("corpora/tiny"), **{"precision": "bf16", "model": shape, "stages": TWO} | changes)


MASKS_WIN, RUNS_WIN = {"products": 1, "fused": 2, "cudnn": 3, "varlen": 4}, {"fused": 2, "varlen": 1}


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        (("fused", None, ["long"]), dict(seconds=MASKS_WIN)),  # varlen has no dropout: not compared
        (("fused", "fused", ["long"]), dict(seconds=MASKS_WIN, stages=UNDROPPED)),
        (("varlen", "varlen", ["long"]), dict(seconds=RUNS_WIN, stages=UNDROPPED)),
        (("fused", None, ["long"]), dict(seconds=RUNS_WIN, stages=UNDROPPED, not_on_other_ranks=("varlen",))),
        (("products", None, ["long"]), dict(seconds=MASKS_WIN, attention_kernel="trial")),
        (("products", None, ["long"]), dict(seconds=MASKS_WIN, attention_kernel="trial", on_gpu=False)),
        ((None, None, ["long"]), dict()),
        (("fused", "fused", []), dict(attention_kernel="fused")),
        (("varlen", "varlen", []), dict(deterministic=True, stages=UNDROPPED)),
        ((None, None, []), dict(deterministic=True, attention_kernel="trial")),
        ((None, None, []), dict(on_gpu=False, kept="fused")),
        (("fused", "fused", []), dict(on_gpu=False, kept="fused", attention_kernel="trial")),
    ],
)
def test_what_is_chosen(chosen, expected, given):
    *found, said = chosen(**given)
    assert tuple(found) == expected
    assert len(said) == len(expected[2])
    if said and expected[0] is None:
        assert said == ["attention kernel: none could be timed"]


def test_a_run_chooses_for_the_stages_that_come(chosen):
    """Else it would go on with another kernel than after a resume."""
    softmax = {"name": "softmax", "steps": 4, "grow": "softmax_attention", "shape": {"attention": "softmax"}}
    linear = dict(attention="elu", attention_dropout=0.0)
    assert chosen(RUNS_WIN, model=linear, stages=[TWO[0], softmax])[:3] == ("varlen", "varlen", ["softmax"])
    assert chosen(RUNS_WIN, model=linear) == (None, None, [], [])


def test_a_trial_has_segments_if_some_rows_have(monkeypatch):
    config = small_config()
    found = [random_batch(config, "full"), random_batch(config, "packed")]
    rows = choice.one_micro_batch(SimpleNamespace(probe=lambda stage: found), SimpleNamespace(micro_batch=4))
    assert torch.equal(rows.segments, found[1].segments[[0, 1, 2, 0]])


def test_rows_with_runs_have_a_preference_of_their_own(monkeypatch):
    asked = []
    monkeypatch.setattr(attention_kernels, "kernel_for_runs", lambda *given: asked.append(given[-1]))
    config = small_config()
    batch = random_batch(config, "packed")
    model = build(config)
    for for_runs in (None, "fused"):
        model.prefer_kernel("fused", for_runs)
        model(replace(batch, runs=Runs.of(batch.segments)))
    assert asked == [None, "fused"] and model.blocks[0].attention.kernel == "fused"


def test_a_named_kernel_has_to_do_what_one_stage_asks(chosen, monkeypatch):
    chosen(on_gpu=True, attention_kernel="varlen", stages=UNDROPPED)  # the machine stays
    check_attention_kernel(resolve(recipe_of(attention_kernel="varlen", stages=UNDROPPED), 128, 1))
    with pytest.raises(UserError, match=r"^attention_kernel varlen has no dropout .*; name another, or auto$"):
        check_attention_kernel(resolve(recipe_of(attention_kernel="varlen"), 128, 1))
    monkeypatch.setattr(attention_kernels, "flash_attn_3_varlen_func", lambda: None)
    check_attention_kernel(resolve(recipe_of(attention_kernel="flash-attn-3", stages=UNDROPPED), 128, 1))
    fixed = recipe_of({"attention_dropout": 0.0}, attention_kernel="flash-attn-3", deterministic=True)
    with pytest.raises(UserError, match=r"^attention_kernel flash-attn-3 keeps no order .*; name another, or auto$"):
        check_attention_kernel(resolve(fixed, 128, 1))


def profiled(corpus: Path, folder: Path) -> str:
    recipe = write_recipe(folder / "varlen.yaml", corpus, attention_kernel="varlen")
    with pytest.raises(UserError) as told:
        measure(str(recipe), out=folder / "out.json")
    return str(told.value)


def test_profile_refuses_what_training_refuses(corpus, tmp_path):
    assert pool(1).run(profiled, corpus, tmp_path) == ["attention_kernel varlen needs a GPU; name another, or auto"]


@pytest.mark.parametrize("name", ["flash-attn-3", "flash-attn", "varlen", "cudnn"])
def test_a_kernel_that_is_not_here_is_one_line(corpus, name):
    run = resolve(tiny_recipe(corpus, attention_kernel=name, **SHORT), 128, 1)
    with pytest.raises(UserError, match=rf"^attention_kernel {name} needs a GPU; name another, or auto$"):
        check_attention_kernel(run)
    for there in ("products", "fused"):
        check_attention_kernel(resolve(tiny_recipe(corpus, attention_kernel=there, **SHORT), 128, 1))


def test_a_recipe_may_name_every_kernel():
    assert get_args(Named) == ("auto", "trial", *KERNELS)
