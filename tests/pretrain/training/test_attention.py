"""The attention kernel of a run: tried at the start, kept after that, replaced only where it is lost."""

import time
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import attention
from model.attention_kernels import KERNELS, AttentionKernel
from model.batch import Runs
from model.errors import UserError
from pretrain.recipe import resolve
from pretrain.recipe.schema import AttentionKernel as Named
from pretrain.training import attention as choice
from pretrain.training import stages
from pretrain.training.attention import try_kernels
from pretrain.training.preflight import check_attention_kernel
from pretrain.training.train import train
from tests.support.running import random_batch, small_config
from tests.support.tiny import stop_message, tiny_recipe, train_until
from tests.support.workers import pool

ABSENT = AttentionKernel(lambda asked: "is not here")
SHORT = dict(schedule={"warmup": 1}, stages=[{"name": "only", "steps": 4}], validation={"rows": 8})


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
        "absent": ABSENT,
    }
    before = torch.get_rng_state()
    with patch.dict(KERNELS, made_up):
        found = try_kernels(config, replace(batch, runs=Runs.of(batch.segments)), torch.float32, 4)
        without = try_kernels(config, batch, torch.float32, 4)
    assert found.keys() == {"products", "fused", "quick", "slow"} and without.keys() == {"products", "fused"}
    assert found["slow"] > 0.3 > found["quick"] > 0
    assert torch.equal(torch.get_rng_state(), before)


def started(recipe, folder: Path, step: int, changes: ExitStack) -> tuple[list[str | None], str]:
    """Trains to a step. The kernel of its engine, and what it says of it."""
    kernels, start_engine, said = [], stages.start_engine, StringIO()

    def starting(state, settings):
        kernels.append(settings.attention_kernel)
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
    usual = started(tiny_recipe(corpus, **SHORT), folder / "usual", 1, changed(no_trial))
    fixed = tiny_recipe(corpus, attention_kernel="trial", deterministic=True, **SHORT)
    started(fixed, folder / "fixed", 1, changed())
    with patch.dict(KERNELS, fused=ABSENT, products=ABSENT):
        refused = stop_message(train, fixed, folder / "fixed")
    return [first, resumed, elsewhere, usual, refused]


def test_the_fastest_is_kept_until_it_is_lost(corpus, tmp_path):
    [[first, resumed, elsewhere, usual, refused]] = pool(1).run(runs, corpus, tmp_path)
    assert first[0] == ["fused"]
    assert first[1].startswith("espalier: attention kernel fused, the fastest of a trial: fused ")
    assert ", products " in first[1] and first[1].endswith(" ms")
    assert resumed == (["fused"], "")
    assert elsewhere[0] == ["products"]
    assert "the run was begun with attention kernel fused, which is not here: another will round" in elsewhere[1]
    assert usual == ([None], ""), "on a CPU nothing is timed unless asked for"
    assert "which is not here: with another it would not have the same bits; resume it where it was" in refused


@pytest.mark.parametrize("name", ["flash-attn", "varlen", "cudnn"])
def test_a_kernel_that_is_not_here_is_one_line(corpus, name):
    run = resolve(tiny_recipe(corpus, attention_kernel=name, **SHORT), 128, 1)
    with pytest.raises(
        UserError, match=rf"^attention_kernel {name} needs a GPU \(stage only\); name another, or auto$"
    ):
        check_attention_kernel(run)
    for there in ("products", "fused"):
        check_attention_kernel(resolve(tiny_recipe(corpus, attention_kernel=there, **SHORT), 128, 1))


def test_a_recipe_may_name_every_kernel():
    assert get_args(Named) == ("auto", "trial", *KERNELS)
