"""What a run will do, before anything runs: shapes, parameters, work, memory on each rank, and the learning rate."""

import math

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from pretrain.flops import training_flops
from pretrain.memory import num_parameters, state_bytes
from pretrain.optim import notes
from pretrain.recipe import ResolvedStage, Run
from pretrain.recipe.engine_file import offloads_optimizer


def print_plan(run: Run, console: Console | None = None) -> None:
    console = console or Console()
    if not console.is_terminal:
        console.width = 140  # a log has no width of its own; do not wrap to 80
    console.print(plan_tables(run))


def plan_tables(run: Run) -> RenderableType:
    return Group(_stages_table(run), _memory_table(run), _schedule_table(run), *notes(run.recipe.optimizer))


def stage_flops(stage: ResolvedStage, mask_rate: float) -> int:
    """Of one optimizer step of the stage, over all ranks."""
    predictions = round(stage.global_batch * stage.sequence * mask_rate)
    return training_flops(stage.config, stage.global_batch, stage.sequence, predictions)


def _stages_table(run: Run) -> Table:
    ranks = f"{run.num_ranks} process" + ("es" if run.num_ranks > 1 else "")
    table = Table(title=f"{run.recipe.name}: {run.moment(run.end)} on {ranks}, {run.recipe.precision}", **_STYLE)
    for heading in ("stage", "from", "shape", "parameters", "rows x tokens", "step on a rank", "grow"):
        table.add_column(heading)
    for heading in ("length", "FLOP/step", "FLOP"):
        table.add_column(heading, justify="right")
    total = 0.0
    for stage in run.stages:
        flops = stage_flops(stage, run.recipe.data.mask_rate)
        total += flops * stage.length
        table.add_row(
            stage.name,
            run.moment(stage.start),
            stage.config.summary(),
            f"{num_parameters(stage.config):,}",
            f"{stage.global_batch:,} x {stage.sequence}",
            f"{stage.accumulation} x {stage.micro_batch} rows",
            ", ".join(operator.name for operator in stage.grow) or "-",
            run.moment(stage.length),
            f"{flops:.3g}",
            f"{flops * stage.length:.3g}" if run.unit == "steps" else "?",
        )
    if run.unit == "steps":
        table.add_section()
        table.add_row("total", *[""] * 6, run.moment(run.end), "", f"{total:.3g}")
    return table


def _memory_table(run: Run) -> Table:
    table = Table(title="bytes on each rank (training state; activations come on top)", **_STYLE)
    for heading in ("stage", "TP x DP", "ZeRO"):
        table.add_column(heading)
    for heading in ("weights", "gradients", "optimizer", "sum", "in host memory"):
        table.add_column(heading, justify="right")
    for stage in run.stages:
        offload = offloads_optimizer(stage.deepspeed)
        held = state_bytes(
            stage.config, stage.zero_stage, stage.precision, stage.tensor_parallel, stage.data_parallel, offload
        )
        table.add_row(
            stage.name,
            f"{stage.tensor_parallel} x {stage.data_parallel}",
            f"{stage.zero_stage}{' + offload' if offload else ''}",
            *(_bytes(count) for count in (held.weights, held.gradients, held.optimizer, held.device)),
            _bytes(held.host) if held.host else "-",
        )
    return table


def _schedule_table(run: Run) -> Table:
    table = Table(title="learning rate", **_STYLE)
    table.add_column("at", justify="right")
    table.add_column("stage")
    table.add_column("rate", justify="right")
    for tick in run.learning_rate.corners:
        if tick < run.end:
            stage = next(stage for stage in run.stages if tick < stage.end)
            table.add_row(run.moment(tick), stage.name, f"{run.learning_rate(tick):.4g}")
    return table


def _bytes(count: float) -> str:
    """1536 -> 1.5 KiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log(max(count, 1), 1024)), len(units) - 1)
    return f"{count / 1024**power:.4g} {units[power]}"


_STYLE = dict(box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
