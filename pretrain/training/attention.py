"""Which attention kernel a run prefers: the one that its recipe names, the one it was begun with, or the fastest of a
trial on its own rows.

One choice holds for all stages. Where a later one asks for what the kernel cannot do, `model.attention_kernels` takes
the next that can.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from model.attention import Mask, SoftmaxAttention, attention_mask
from model.attention_kernels import KERNELS, Asked, packed_rows
from model.batch import Batch
from model.config import BertConfig
from model.errors import UserError
from model.parallel.tensor import TensorParallel
from pretrain.engine.agreement import read_once, say_once
from pretrain.engine.build import PRECISIONS
from pretrain.engine.distributed import computes_on_gpu, device
from pretrain.recipe import ResolvedStage, Run
from pretrain.training.events import TrainerView

WARMUP, REPEATS = 2, 5


def choose_attention_kernel(trainer: TrainerView) -> None:
    """Sets the choice in the progress of the run, before it has an engine. Collective: rank 0 chooses."""
    recipe, stage, progress = trainer.run.recipe, trainer.stage, trainer.progress
    if recipe.attention_kernel not in ("auto", "trial"):
        progress.attention_kernel = recipe.attention_kernel
        return
    if stage.config.attention != "softmax" or not stage.config.layers:
        return
    kept = progress.attention_kernel
    obstacle = None if kept is None else read_once(partial(_loss_of, kept, trainer.run))
    if obstacle:
        say_once(f"the run was begun with attention kernel {kept}, which {obstacle}: another will round differently")
    if kept is not None and not obstacle:
        return
    tries = recipe.attention_kernel == "trial" or (computes_on_gpu() and not recipe.deterministic)
    progress.attention_kernel, line = read_once(partial(_fastest, trainer) if tries else partial(_first, stage))
    if line:
        say_once(line)


def obstacle_to(name: str, stage: ResolvedStage) -> str | None:
    """Why the kernel cannot do what a stage asks of it here, to be read after its name; None: it can."""
    return KERNELS[name].obstacle(asked(stage.config, PRECISIONS[stage.precision]))


def asked(config: BertConfig, dtype: torch.dtype) -> Asked:
    return Asked(device(), dtype, config.head_dim, config.attention_dropout)


def _loss_of(name: str, run: Run) -> str | None:
    """Why the kernel that the run has kept is none of this machine's: it can do no stage."""
    obstacles = [obstacle_to(name, stage) for stage in run.stages]
    if not all(obstacles):
        return None
    if run.recipe.deterministic:
        raise UserError(
            f"the run was begun with attention kernel {name}, which {obstacles[0]}: with another it would not have the "
            "same bits; resume it where it was, or begin a new run"
        )
    return obstacles[0]


def _first(stage: ResolvedStage) -> tuple[str | None, None]:
    """Without a trial: none on a CPU, whose products may be left for a GPU's kernels."""
    if not computes_on_gpu():
        return None, None
    what = asked(stage.config, PRECISIONS[stage.precision])
    return next(name for name, kernel in KERNELS.items() if kernel.obstacle(what) is None and name != "products"), None


def _fastest(trainer: TrainerView) -> tuple[str, str]:
    stage = trainer.stage
    num_heads = stage.config.block_heads(0) // stage.tensor_parallel
    seconds = try_kernels(stage.config, _one_micro_batch(trainer), PRECISIONS[stage.precision], num_heads)
    best, *_ = names = sorted(seconds, key=lambda name: seconds[name])
    times = ", ".join(f"{name} {1e3 * seconds[name]:.3g} ms" for name in names)
    return best, f"attention kernel {best}, the fastest of a trial: {times}"


def _one_micro_batch(trainer: TrainerView) -> Batch:
    """As many rows as a micro-batch has, divided into segments as those of the validation are."""
    rows = trainer.probe(trainer.stage)[0]
    chosen = torch.arange(trainer.stage.micro_batch) % len(rows.ids)
    none = rows.masked_ids[:0]
    segments = None if rows.segments is None else rows.segments.to("cpu")[chosen]
    return Batch(rows.ids.to("cpu")[chosen], none, none, segments=segments, causal=rows.causal).to(device())


def try_kernels(config: BertConfig, batch: Batch, dtype: torch.dtype, num_heads: int) -> dict[str, float]:
    """Median seconds of attention forward and backward by each kernel that can do it here. Draws no random number of
    the run's."""
    place = batch.ids.device
    with torch.device("meta"):
        attention = SoftmaxAttention(config, num_heads, TensorParallel()).train()
    found = {}
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        shape = (*batch.ids.shape, num_heads, config.head_dim)
        inputs = [torch.randn(shape, dtype=dtype, device=place).transpose(1, 2).requires_grad_() for _ in range(3)]
        for name, kernel in KERNELS.items():
            in_runs = batch.runs is not None and config.attends_over_runs
            if kernel.obstacle(asked(config, dtype)) or (kernel.over_runs and not in_runs):
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
