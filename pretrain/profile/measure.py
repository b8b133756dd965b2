"""Measures one configuration: some steps of one stage on the ranks there are, without checkpoints or metrics files.

torchrun ... -m pretrain.profile.measure RECIPE --stage N --out FILE.json
"""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
import tyro

from growth.partial_shape import PartialShape
from pretrain.cost.memory import peak_bytes as predicted_peak
from pretrain.cost.memory import stage_bytes
from pretrain.data import Corpus
from pretrain.engine import signals
from pretrain.engine.distributed import device, process_group
from pretrain.profile.breakdown import Breakdown
from pretrain.profile.hook import Profiler
from pretrain.profile.measurement import Measurement
from pretrain.profile.memory_limit import out_of_memory_is_told
from pretrain.profile.peak_memory import peak_bytes, reset_peak, resident_bytes
from pretrain.recipe import ResolvedStage, Run, load_recipe, resolve
from pretrain.recipe.schedule import LearningRate, Phase
from pretrain.training.events import Hook, StepResult, TrainerView
from pretrain.training.preflight import check_device
from pretrain.training.trainer import Trainer


class Steps(Hook):
    """Keeps every step's seconds and tokens, and the most memory held up to step `last`."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.results: list[StepResult] = []
        self.peak_bytes = 0

    def on_start(self, trainer: TrainerView) -> None:
        reset_peak()

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.results.append(result)
        if result.step == self.last:
            self.peak_bytes = peak_bytes()


def measure(
    recipe: str,
    /,
    overrides: tuple[str, ...] = (),
    stage: int = 0,
    warmup: int = 3,
    steps: int = 10,
    profiled: int = 3,
    out: Path = Path("profile.json"),
) -> None:
    """Runs `warmup` steps, `steps` timed ones, and `profiled` more under the profiler; rank 0 writes the result."""
    loaded = load_recipe(recipe, overrides)
    with process_group():
        corpus = Corpus.open(loaded.data.corpus)
        whole = resolve(loaded, corpus.vocab_size, dist.get_world_size())
        check_device(whole)
        run = single_stage(whole, stage, warmup + steps + profiled)
        baseline = resident_bytes()
        taken = Steps(warmup + steps)
        first = warmup + steps + 1
        profiler = Profiler(first, first + profiled, out.with_suffix(""))
        with out_of_memory_is_told():
            trainer = Trainer(run, corpus, [taken, profiler] if profiled else [taken])
            trainer.fit()
        peak = torch.tensor(taken.peak_bytes - baseline, dtype=torch.int64, device=device())
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        if dist.get_rank() == 0:
            result = _summarize(run, taken.results, warmup, steps, int(peak), profiler.breakdown)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(asdict(result), indent=1) + "\n", "utf-8")
        trainer.close()


def single_stage(run: Run, index: int, steps: int) -> Run:
    """A run of `steps` steps of one stage, from fresh weights in that stage's shape, at a constant learning rate
    and without a teacher."""
    untaught = replace(run.stages[index], align=None)
    stage = replace(untaught, index=0, start=0, end=steps, grow=(), shape=PartialShape(), until=None, split=None)
    constant = Phase(0, steps, stage.optimizer.lr, shape="constant")
    return replace(run, unit="steps", stages=(stage,), learning_rate=LearningRate((constant,)))


def _summarize(
    run: Run, results: list[StepResult], warmup: int, steps: int, peak_bytes: int, breakdown: Breakdown | None
) -> Measurement:
    stage, on_cpu = run.stages[0], device().type == "cpu"
    before, timed = results[warmup - 1], results[warmup : warmup + steps]
    ends = [before, *timed]
    tokens = (timed[-1].tokens - before.tokens) / steps
    executed = (timed[-1].flops - before.flops) / steps
    return Measurement(
        ranks=run.num_ranks,
        threads=torch.get_num_threads(),
        tensor_parallel=stage.tensor_parallel,
        zero_stage=stage.zero_stage,
        micro_batch=stage.micro_batch,
        accumulation=stage.accumulation,
        sequence=stage.sequence,
        precision=stage.precision,
        shape=stage.config.summary(),
        step_seconds=[after.seconds - start.seconds for start, after in pairwise(ends)],
        tokens_per_step=tokens,
        useful_flops_per_step=useful_flops(stage, executed, tokens),
        peak_bytes=peak_bytes,
        predicted_bytes=predicted_peak(*stage_bytes(stage, on_cpu), on_cpu),
        breakdown=breakdown,
    )


def useful_flops(stage: ResolvedStage, executed: float, tokens: float) -> float:
    """Of a step's FLOPs those of real tokens, and the optimizer's own, which no padding adds to."""
    of_optimizer = stage.optimizer.chosen.step_flops(stage.config)
    fill = tokens / (stage.global_batch * stage.sequence)
    return (executed - of_optimizer) * fill + of_optimizer


if __name__ == "__main__":
    signals.listen(())  # a measurement has nothing to save
    tyro.cli(measure)
