"""Which attention kernel a run prefers: the one that its recipe names, the one it was begun with, or the fastest of a
trial on its own rows.

One choice holds for all stages. Where one of them asks for what the kernel cannot do, `model.attention_kernels` takes
the next that can.
"""

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor

from model.attention import Mask, SoftmaxAttention, attention_mask
from model.attention_kernels import KERNELS, Asked, packed_rows
from model.batch import Batch
from model.config import BertConfig
from model.parallel.tensor import TensorParallel
from pretrain.engine.agreement import first_message, largest, read_once, say_once
from pretrain.engine.build import PRECISIONS
from pretrain.engine.distributed import computes_on_gpu, device
from pretrain.engine.exits import Stop
from pretrain.recipe import Recipe, ResolvedStage
from pretrain.training.events import TrainerView

WARMUP, REPEATS = 2, 5

WITHIN_PLAN = [name for name in KERNELS if name != "products"]
"""What `auto` tries on a GPU: the maps [B, n, S, S] of products are none that `plan` counts there."""


def choose_attention_kernel(trainer: TrainerView) -> None:
    """Sets the choice in the progress of the run, before it has an engine, for all stages that come. Collective."""
    recipe, progress = trainer.run.recipe, trainer.progress
    if recipe.attention_kernel not in ("auto", "trial"):
        progress.attention_kernel = progress.kernel_for_runs = recipe.attention_kernel
        return
    stages = with_softmax(trainer.run.stages[trainer.stage.index :])
    if not stages:
        return
    # On a CPU the fastest, whatever a GPU may have chosen.
    takes_products = recipe.attention_kernel == "auto" and not computes_on_gpu()
    if _is_kept(progress.attention_kernel, stages, recipe) and not takes_products:
        return
    chosen = (None, None) if takes_products else _chosen(trainer, max(stages, key=lambda stage: stage.sequence))
    progress.attention_kernel, progress.kernel_for_runs = chosen


def with_softmax(stages: Sequence[ResolvedStage]) -> list[ResolvedStage]:
    """Those that ask for a kernel."""
    return [stage for stage in stages if stage.config.attention == "softmax" and stage.config.layers]


def obstacle_to(name: str, stages: Sequence[ResolvedStage]) -> str | None:
    """Why the kernel can do here what none of the stages asks of it, to be read after its name; None: it can do one's,
    or nothing is asked."""
    obstacles = [KERNELS[name].obstacle(_asked(stage)) for stage in stages]
    return obstacles[0] if obstacles and all(obstacles) else None


def _asked(stage: ResolvedStage) -> Asked:
    return Asked(device(), PRECISIONS[stage.precision], stage.config.head_dim, stage.config.attention_dropout)


def _is_kept(name: str | None, stages: Sequence[ResolvedStage], recipe: Recipe) -> bool:
    """Whether the run was begun with a kernel that every rank still has. Collective."""
    if name is None:
        return False
    obstacle = first_message(obstacle_to(name, stages))
    if obstacle and recipe.deterministic:
        raise Stop(
            f"the run was begun with attention kernel {name}, which {obstacle}: with another it would not have the "
            "same bits; resume it where it was, or begin a new run"
        )
    if obstacle:
        say_once(f"the run was begun with attention kernel {name}, which {obstacle}: another will round differently")
    return not obstacle


def _chosen(trainer: TrainerView, stage: ResolvedStage) -> tuple[str | None, str | None]:
    """The kernel to prefer, and the one to prefer for rows with runs. Collective."""
    recipe, names = trainer.run.recipe, _there(stage)
    if recipe.deterministic:
        first = next((name for name in names if KERNELS[name].over_runs), None)
        return first, first
    if recipe.attention_kernel == "auto":
        names = [name for name in names if name in WITHIN_PLAN]
    best, for_runs, line = read_once(partial(_fastest, trainer, stage, names))
    say_once(line)
    return best, for_runs


def _there(stage: ResolvedStage) -> list[str]:
    """The kernels that can do what the stage asks on every rank, in their order. Collective."""
    missing = largest(*(obstacle_to(name, [stage]) is not None for name in KERNELS))
    return [name for name, is_missing in zip(KERNELS, missing, strict=True) if not is_missing]


def _fastest(trainer: TrainerView, stage: ResolvedStage, names: Sequence[str]) -> tuple[str | None, str | None, str]:
    """Those two of `_chosen`, and what is to be said of them.

    A kernel that takes a mask is preferred for rows with runs only if it has won against those for runs: a stage, or
    the validation, may have such rows, or no dropout, where the trial did not.
    """
    num_heads = stage.config.block_heads(0) // stage.tensor_parallel
    rows = one_micro_batch(trainer, stage)
    seconds = try_kernels(stage.config, rows, PRECISIONS[stage.precision], num_heads, names)
    if computes_on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if not seconds:
        return None, None, "attention kernel: none could be timed"
    best, *_ = tried = sorted(seconds, key=lambda name: seconds[name])
    times = ", ".join(f"{name} {1e3 * seconds[name]:.3g} ms" for name in tried)
    for_runs = best if any(KERNELS[name].over_runs for name in tried) else None
    return best, for_runs, f"attention kernel {best}, the fastest of a trial: {times}"


def one_micro_batch(trainer: TrainerView, stage: ResolvedStage) -> Batch:
    """As many rows as a micro-batch has, divided into segments as those of the validation are."""
    found = trainer.probe(stage)
    rows = next((batch for batch in found if batch.segments is not None), found[0])
    chosen = torch.arange(stage.micro_batch) % len(rows.ids)
    none = rows.masked_ids[:0]
    segments = None if rows.segments is None else rows.segments.to("cpu")[chosen]
    return Batch(rows.ids.to("cpu")[chosen], none, none, segments=segments, causal=rows.causal).to(device())


def try_kernels(
    config: BertConfig, batch: Batch, dtype: torch.dtype, num_heads: int, names: Collection[str]
) -> dict[str, float]:
    """Median seconds of attention forward and backward by each kernel of these that takes the rows. Draws no random
    number of the run's."""
    place = batch.ids.device
    with torch.device("meta"):
        attention = SoftmaxAttention(config, num_heads, TensorParallel()).train()
    found = {}
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        shape = (*batch.ids.shape, num_heads, config.head_dim)
        inputs = [torch.randn(shape, dtype=dtype, device=place).transpose(1, 2).requires_grad_() for _ in range(3)]
        for name in names:
            in_runs = batch.runs is not None and config.attends_over_runs
            if KERNELS[name].over_runs and not in_runs:
                continue
            attention.kernel = name
            packed = packed_rows(batch, dtype, config.head_dim, config.attention_dropout, name) if in_runs else None
            try:
                found[name] = _seconds(attention, inputs, packed or attention_mask(batch), place)
            except RuntimeError:  # it is there and refuses, or needs more memory than is left
                continue
    return found


def _seconds(attention: SoftmaxAttention, inputs: list[Tensor], mask: Mask, place: torch.device) -> float:
    wait: Callable[[], None] = torch.cuda.synchronize if place.type == "cuda" else lambda: None
    query, key, value = inputs
    times = []
    for _ in range(WARMUP + REPEATS):
        wait()
        begin = time.perf_counter()
        context = attention.attend(query, key, value, mask)
        torch.autograd.grad(context, inputs, context.detach())
        wait()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARMUP:])
