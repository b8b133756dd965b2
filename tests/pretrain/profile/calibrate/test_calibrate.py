"""`profile --calibrate`: what ranks measure makes a machine, with which a step can be predicted."""

import json
from functools import partial
from math import inf
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from model import attention_kernels
from model.attention_kernels import KERNELS, AttentionKernel
from model.errors import UserError
from pretrain.cost.time.machine import load_machine
from pretrain.cost.time.messages import KINDS
from pretrain.cost.time.passes import MOVED, UPDATE_BYTES
from pretrain.cost.time.step import step_time
from pretrain.profile.calibrate import links, measure, rates, waiting
from pretrain.profile.calibrate.verb import filled_in, machine_file, write_machine
from pretrain.profile.synthetic import synthetic_recipe
from pretrain.recipe import load_recipe, resolve
from tests.support.workers import pool


def measured(recipe: str, out: Path) -> None:
    """The whole measurement, of few and small things, each once."""
    quick = partial(rates.median_seconds, seconds=0)
    with (
        patch.object(rates, "CPU_PRODUCTS", ((64, 64, 64), (256, 64, 256))),
        patch.object(rates, "ATTENTION", ((64, 32),)),
        patch.object(rates, "NUM_PARAMETERS", 8000),
        patch.object(rates, "median_seconds", quick),
        patch.object(links, "MESSAGE_BYTES", (8000, 64000)),
        patch.object(waiting, "WORK_SECONDS", (0.002, 0.01)),
        patch.object(waiting, "SECONDS", 0.02),
        patch.object(measure, "ROUNDS", 2),
        patch.object(measure, "WARMUP", 1),
        patch.object(measure, "TIMED", 2),
    ):
        measure.measure_all(recipe, out)


def test_two_ranks_measure_a_machine_that_plans(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = synthetic_recipe(tmp_path, sequence=64)
    pool(2).run(measured, str(recipe), tmp_path / "machine.json")
    file = machine_file("mine")
    measured_values = json.loads((tmp_path / "machine.json").read_text("utf-8"))
    write_machine(file, measured_values, 2, filled_in(file))
    machine = load_machine("mine")
    assert machine.measured and machine.host_name and machine.on_cpu and machine.ranks == 2
    assert set(machine.passes) >= {*MOVED, *UPDATE_BYTES, "sum"}
    assert set(machine.within.of) == set(KINDS)
    assert all([megabytes for megabytes, _ in sizes] == [0.008, 0.064] for sizes in machine.within.of.values())
    assert [seconds for seconds, _ in machine.host.waiting] == [0.002, 0.01]
    assert machine.host.rebuild_seconds > 0
    assert machine.alone is not None and set(machine.alone.passes) == set(machine.passes)
    run = resolve(load_recipe(recipe, ["precision=fp32"]), None, 2)
    assert 1e-4 < step_time(run, run.stages[0], machine).seconds < 1e4

    older = file.read_text("utf-8").replace("price: null", "price: 2.5").replace("alone:", "formerly:")
    file.write_text(older, "utf-8")
    write_machine(file, measured_values, 2, filled_in(file))
    assert load_machine("mine").price == 2.5, "what its user has filled in stays, though the file is of an older kind"
    file.write_text("price: -1\n", "utf-8")
    with pytest.raises(UserError, match="price is -1"):
        filled_in(file)


def test_a_gpu_that_multiplies_in_fp8_is_measured_in_it(monkeypatch):
    monkeypatch.setattr(measure, "multiplies_in_fp8", lambda: True)
    monkeypatch.setattr(measure, "computes_in_bf16", lambda: False)
    monkeypatch.setattr(rates, "CPU_PRODUCTS", ((64, 32, 48),))
    monkeypatch.setattr(rates, "ATTENTION", ((64, 32),))
    monkeypatch.setattr(rates, "NUM_PARAMETERS", 8000)
    monkeypatch.setattr(rates, "median_seconds", partial(rates.median_seconds, seconds=0))
    [(m, k, n, rate)] = measure._rates(float)["arithmetic"]["fp8"]["products"]
    assert (m, k, n) == (64, 32, 48) and rate > 0


def test_attention_is_as_fast_as_its_fastest_kernel(monkeypatch):
    seconds = {"slow": 2.0, "quick": 0.5, "refusing": inf}
    monkeypatch.setattr(rates, "kernels_for", lambda dtype, head_dim: [*seconds])
    monkeypatch.setattr(rates, "attention_seconds", lambda kernel, inputs, heads: seconds[kernel])
    found = list(rates.attention_rates(torch.float32))
    assert found == [
        (length, width, pytest.approx(1e-12 * 3 * 4 * 4096 * length * 4 * width / 0.5))
        for length, width in rates.ATTENTION
    ]


def test_kernels_for_runs_are_timed_over_rows_that_are_one_each(monkeypatch):
    seen = []

    def quick(query, key, value, runs, dropout, sight):
        seen.append((query.shape, runs.starts.tolist(), runs.longest, dropout))
        return query + key + value

    def refusing(*arguments):
        raise RuntimeError("not with these shapes")

    can = KERNELS["fused"].obstacle
    made_up = {"quick": AttentionKernel(can, quick), "refusing": AttentionKernel(can, refusing)}
    monkeypatch.setattr(rates, "median_seconds", partial(rates.median_seconds, seconds=0))
    inputs = [torch.randn(3, 8, 32, requires_grad=True) for _ in range(3)]
    with patch.dict(KERNELS, made_up):
        assert rates.attention_seconds("refusing", inputs, 4) == inf > rates.attention_seconds("quick", inputs, 4)
    assert set(map(str, seen)) == {str((torch.Size([24, 4, 8]), [0, 8, 16, 24], 8, 0.0))}


def test_on_a_gpu_those_are_timed_that_auto_tries(monkeypatch):
    monkeypatch.setattr(rates, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(attention_kernels, "capability", lambda device: (8, 0))
    monkeypatch.setattr(attention_kernels, "flash_attn_varlen_func", None)
    assert rates.kernels_for(torch.bfloat16, 64) == ["varlen", "fused", "cudnn"]
    assert rates.kernels_for(torch.float32, 64) == ["fused"]


def test_each_number_is_the_median_of_the_rounds():
    rounds = [{"products": [(64, 32, 16, rate)], "alone": None} for rate in (3.0, 9.0, 4.0)]
    assert measure.middle_of(rounds) == {"products": [[64, 32, 16, 4.0]], "alone": None}


@pytest.mark.parametrize(("name", "said"), [("h100", "ships with Espalier"), ("my machine", "is not a name")])
def test_names_that_cannot_be_are_refused(name, said):
    with pytest.raises(UserError, match=said):
        machine_file(name)


def test_a_path_is_taken_as_it_is(tmp_path):
    assert machine_file(str(tmp_path / "a.yaml")) == tmp_path / "a.yaml"
    assert machine_file("site/a") == Path("site/a.yaml")
