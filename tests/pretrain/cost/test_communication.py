"""Where ranks wait for each other's gradients, and what a part of the model computes."""

import pytest

from pretrain.cost.communication import balance, outweighed
from pretrain.cost.modules import module_work
from pretrain.cost.savings import stage_flops
from pretrain.recipe import Run, load_recipe, resolve


def planned(recipe: str, num_ranks: int, *overrides: str) -> Run:
    return resolve(load_recipe(recipe, overrides), None, num_ranks)


def test_bert_large_on_32_gpus_mostly_waits(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    (line,) = outweighed(planned("large", 32), on_cpu=True)
    assert line.startswith("warning: stage short has 8 rows a rank and step: 12.3 ms of work against 27.7 ms")
    assert list(outweighed(planned("lamb-large", 32), on_cpu=True)) == []


def test_nothing_is_said_of_ranks_that_compute_here(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    assert list(outweighed(planned("large", 32), on_cpu=True)) == []
    assert list(outweighed(planned("large", 4), on_cpu=False)) == []


@pytest.mark.parametrize(("zero", "times"), [(0, 1), (1, 1), (2, 5 / 2), (3, 3 * 4 / 2)])
def test_what_a_zero_stage_sends(zero, times):
    """Four micro-batches: ZeRO 2 reduces after each, ZeRO 3 gathers the weights for each pass as well."""
    usual = balance(planned("large", 8, "batch.micro=8", "deepspeed=ds_configs/zero1.json").stages[0])
    stage = planned("large", 8, "batch.micro=8", f"deepspeed=ds_configs/zero{zero}.json").stages[0]
    assert balance(stage).messages == pytest.approx(times * usual.messages)
    assert balance(stage).work == usual.work


def test_the_parts_of_the_model_compute_what_a_step_does():
    stage = planned("albert-base", 2).stages[0]
    parts = module_work(stage, on_cpu=False)
    assert parts.pop("block").flops == parts["attention"].flops + parts["feedforward"].flops
    forward = sum(part.flops for part in parts.values())
    assert 3 * forward * stage.data_parallel == pytest.approx(stage_flops(stage), rel=1e-3)
    assert all(part.bytes > 0 for part in parts.values())


def test_what_the_optimizer_multiplies_counts_on_neither_side():
    adamw, muon = (planned("base", 8, f"optimizer.name={name}").stages[0] for name in ("adamw", "muon"))
    assert balance(muon) == balance(adamw)
