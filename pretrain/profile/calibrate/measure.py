"""What the ranks of `profile --calibrate` run: rates of one rank with all at work and alone, messages, small steps.

torchrun ... -m pretrain.profile.calibrate.measure RECIPE --out FILE.json
"""

import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import tyro

from model.parameters import parameter_table
from pretrain.cost.time.machine import Machine
from pretrain.cost.time.step import step_time
from pretrain.data import Corpus
from pretrain.engine import signals
from pretrain.engine.build import PRECISIONS
from pretrain.engine.distributed import computes_on_gpu, device, process_group
from pretrain.engine.fast_fp32 import fast_fp32
from pretrain.engine.fp8 import multiplies_in_fp8
from pretrain.launch.bf16 import computes_in_bf16
from pretrain.profile.calibrate.links import measured_link
from pretrain.profile.calibrate.rates import (
    attention_rates,
    launch_microseconds,
    memory_rate,
    pass_rates,
    product_rates,
)
from pretrain.profile.calibrate.waiting import waiting_shares
from pretrain.profile.measure import Steps, single_stage
from pretrain.recipe import Run, load_recipe, resolve
from pretrain.training.events import Hook, TrainerView
from pretrain.training.trainer import Trainer

TINY = ("model.hidden=64", "model.heads=2", "model.ffn=256", "model.layers=2", "sequence=64", "batch.global=16")
"""A model whose step is mostly what no tensor needs: launches, hooks, the trainer."""
WARMUP, TIMED = 3, 9
ROUNDS = 5
"""Over all rates, since a machine with other users is slower at times. The median of each counts: a step is longer than
the spells in which such a machine is fast, and the best of short measurements would find these alone."""


def measure(recipe: str, /, out: Path = Path("machine.json")) -> None:
    """Rank 0 writes the machine's values, without those that a person knows."""
    with process_group():
        measure_all(recipe, out)


def measure_all(recipe: str, out: Path) -> None:
    """In ranks that are there already. Collective."""
    with fast_fp32():
        rounds = [{**_rates(_mean), "alone": _rates_alone()} for _ in range(ROUNDS)]
        values = middle_of(rounds)
        values["within"] = measured_link()
        values["host"] = {"launch_us": _mean(launch_microseconds()), "waiting": waiting_shares()}
        values["host"] |= _between_operators(recipe, values)
        if dist.get_rank() == 0:
            out.write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def _rates(mean: Callable[[float], float]) -> dict[str, Any]:
    """What a rank computes and moves; `mean` takes each number."""
    precisions = ["fp32"] + ["bf16"] * (computes_on_gpu() or computes_in_bf16())
    arithmetic: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        dtype = PRECISIONS[precision]
        products = [(m, k, n, mean(rate)) for m, k, n, rate in product_rates(dtype)]
        attention = [(length, width, mean(rate)) for length, width, rate in attention_rates(dtype)]
        arithmetic[precision] = {"products": products, "attention": attention}
    if multiplies_in_fp8():
        rates = product_rates(torch.bfloat16, in_fp8=True)
        arithmetic["fp8"] = {"products": [(m, k, n, mean(rate)) for m, k, n, rate in rates]}
    passes = {kind: mean(rate) for kind, rate in pass_rates(PRECISIONS[precisions[-1]]).items()}
    return {"arithmetic": arithmetic, "gb_per_second": mean(memory_rate()), "passes": passes}


def _rates_alone() -> dict[str, Any] | None:
    """Of rank 0, while the others wait; None where ranks share nothing that matters."""
    if computes_on_gpu() or dist.get_world_size() == 1:
        return None
    rates = _rates(float) if dist.get_rank() == 0 else None
    dist.barrier()
    return rates


def middle_of(rounds: Sequence[Any]) -> Any:
    """Of values of one structure, the median of the numbers in each place: sizes are the same in all of them."""
    first = rounds[0]
    if isinstance(first, dict):
        return {key: middle_of([values[key] for values in rounds]) for key in first}
    if isinstance(first, list | tuple):
        return [middle_of(values) for values in zip(*rounds, strict=True)]
    return first if first is None or isinstance(first, int) else median(rounds)


def _between_operators(recipe: str, values: dict[str, Any]) -> dict[str, Any]:
    """What is left of small steps once the model has had its part: of every step, and of each parameter's hooks."""
    machine = Machine.model_validate(
        {**values, "about": "", "device": "gpu" if computes_on_gpu() else "cpu", "ranks": dist.get_world_size()}
        | {"error_percent": 1, "error_source": "this", "gb_per_second": values["gb_per_second"]}
    )
    left, builds, num_parameters = {}, [], 0
    for zero in (0, 1, 2, 3):
        run = _tiny_run(recipe, zero)
        num_parameters = len(parameter_table(run.stages[0].config))
        build, step = _seconds_of(run)
        builds.append(build)
        left[zero] = max(0.0, step - step_time(run, run.stages[0], machine).seconds)
    return {
        "step_ms": 1e3 * left[0],
        "rebuild_seconds": max(builds[1:]),  # the first one imports what it needs
        "parameter_us": {zero: 1e6 * max(0.0, rest - left[0]) / num_parameters for zero, rest in left.items()},
    }


def _tiny_run(recipe: str, zero: int) -> Run:
    overrides = (*TINY, f"deepspeed=ds_configs/zero{zero}.json", "validation.rows=2")
    loaded = load_recipe(recipe, overrides)
    corpus = Corpus.open(loaded.data.corpus)
    return single_stage(resolve(loaded, corpus.vocab_size, dist.get_world_size()), 0, WARMUP + TIMED)


class Begun(Hook):
    """When the engine was ready."""

    def on_start(self, trainer: TrainerView) -> None:
        self.at = time.perf_counter()


def _seconds_of(run: Run) -> tuple[float, float]:
    """Until the engine stands, and of the fastest step; the slowest rank's."""
    begun, taken = Begun(), Steps(WARMUP + TIMED)
    start = time.perf_counter()
    trainer = Trainer(run, Corpus.open(run.recipe.data.corpus), [begun, taken])
    trainer.fit()
    trainer.close()
    ends = [result.seconds for result in taken.results][WARMUP - 1 :]
    fastest_step = min(after - before for before, after in pairwise(ends))
    slowest = torch.tensor([begun.at - start, fastest_step], dtype=torch.float64, device=device())
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    build, step = slowest.tolist()
    return build, step


def _sum(value: float) -> float:
    total = torch.tensor(value, dtype=torch.float64, device=device())
    dist.all_reduce(total)
    return total.item()


def _mean(value: float) -> float:
    """Over the ranks, which have measured it at the same time."""
    return _sum(value) / dist.get_world_size()


if __name__ == "__main__":
    signals.listen(())  # a measurement has nothing to save
    tyro.cli(measure)
