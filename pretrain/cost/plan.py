"""What a run will do, before anything runs: shapes, parameters, FLOPs, memory per rank, and the learning rate."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pretrain.cost.attention import masked_attention
from pretrain.cost.communication import outweighed
from pretrain.cost.copies import equal_copies
from pretrain.cost.learning import learning_bytes, learning_flops, learning_notes
from pretrain.cost.memory import StateBytes, StepBytes, held_bytes, num_parameters, peak_bytes, stage_bytes
from pretrain.cost.optimizer_changes import optimizer_changes
from pretrain.cost.optimizer_step import step_shares
from pretrain.cost.savings import (
    changes_shape,
    compare_costs,
    pilot_flops,
    stage_flops,
    target_config,
    target_flops,
    teacher_flops,
)
from pretrain.optim.buckets import gradient_buckets
from pretrain.recipe import ResolvedStage, Run
from pretrain.settings.tables import WholeTable
from pretrain.stage_rules.until import length_in_words

MemoryRow = tuple[str, str, ResolvedStage, StateBytes, StepBytes]
"""Its name and ZeRO stage, in words; and what it is about."""


def print_plan(run: Run, on_cpu: bool = True, console: Console | None = None) -> None:
    """`on_cpu`: whether ranks compute on CPUs, where memory is needed for other things than on GPUs."""
    console = console or Console()
    if not console.is_terminal:
        console.width = 140  # a log has no width; do not wrap to 80
    console.print(plan_tables(run, on_cpu))


def plan_tables(run: Run, on_cpu: bool = True) -> RenderableType:
    saved: list[RenderableType] = (
        [_savings_table(run), *_savings_notes(run)] if run.unit == "steps" and changes_shape(run) else []
    )
    tables: tuple[RenderableType, ...] = (*saved, _memory_table(run, on_cpu), _schedule_table(run))
    return Group(_stages_table(run), *_rules(run, on_cpu), *tables, *_notes(run))


def _notes(run: Run) -> list[str]:
    """Of the optimizers, each once."""
    return list(dict.fromkeys(note for stage in run.stages for note in stage.optimizer.chosen.notes()))


def _stages_table(run: Run) -> Table:
    ranks = f"{run.num_ranks} process" + ("es" if run.num_ranks > 1 else "")
    table = WholeTable(title=f"{run.recipe.name}: {run.moment(run.end)} on {ranks}, {run.recipe.precision}", **_STYLE)
    for heading in ("stage", "from", "shape", "parameters", "rows x tokens", "step per rank", "grow"):
        table.add_column(heading)
    for heading in ("length", "FLOP/step", "FLOP"):
        table.add_column(heading, justify="right")
    total = 0.0
    for stage in run.stages:
        flops = stage_flops(stage)
        total += flops * stage.length
        table.add_row(
            stage.name,
            run.moment(stage.start),
            stage.config.summary(),
            f"{num_parameters(stage.config):,}",
            f"{stage.global_batch:,} x {stage.sequence}",
            f"{stage.accumulation} x {stage.micro_batch} rows",
            ", ".join(operator.name for operator in stage.grow) or "-",
            ("at most " if stage.until else "") + run.moment(stage.length),
            f"{flops:.3g}",
            f"{flops * stage.length:.3g}" if run.unit == "steps" else "?",
        )
    if run.unit == "steps":
        table.add_section()
        table.add_row("total", *[""] * 6, run.moment(run.end), "", f"{total:.3g}")
    return table


def _rules(run: Run, on_cpu: bool) -> Iterator[Text]:
    """What may end or split a stage, which states are saved, and which width or ranks would be wasted."""
    lines = []
    for stage in run.stages:
        if stage.until:
            lines.append(f"{stage.name}: {length_in_words(run.moment(stage.length), stage.until)}")
        if stage.starts_new_units:
            lines.append(f"{stage.name}: {_new_units(stage)}")
        if stage.split:
            lines.append(f"{stage.name}: {stage.split.words()}")
        if stage.align:
            lines.append(f"{stage.name}: {_alignment(run, stage)}")
        if stage.zero_stage == 0 and stage.precision != "fp32":
            lines.append(
                f"{stage.name}: a step of ZeRO 0 in {stage.precision} takes a GPU some twenty kernels a parameter; "
                "ZeRO 1 takes a few in all, and no more memory"
            )
        if stage.keep:
            lines.append(f"{stage.name}: its final state is saved as checkpoints/{stage.keep}")
    if any(stage.until for stage in run.stages):
        lines.append("The last stage takes over the steps they leave; the figures here are for full lengths.")
    lines += _fp8(run)
    lines += _changing_nodes(run)
    lines += _clipping_on_ranks(run)
    lines += equal_copies(run)
    lines += optimizer_changes(run)
    lines += learning_notes(run)
    lines += step_shares(run)
    lines += outweighed(run, on_cpu)
    lines += masked_attention(run, on_cpu)
    if lines:
        yield Text("\n".join(lines) + "\n")


def _new_units(stage: ResolvedStage) -> str:
    rate = stage.new_unit_rate
    faster = f", at {rate.lr_scale:g} times the learning rate, falling to 1 in {rate.steps:,} steps" * bool(rate.steps)
    return f"new units begin without state and count their own steps{faster}; old ones keep theirs"


def _alignment(run: Run, stage: ResolvedStage) -> str:
    """Of a layer with a frozen teacher."""
    align = stage.align
    assert align is not None
    layer, weight = align.layer_of(stage.config), stage.align_weight_at(stage.start)
    shape = align.config.summary() if align.config else "not there yet, so not counted"
    cost = f"; {teacher_flops(stage):.3g} FLOP a step" * (align.config is not None)
    cost += "; it ends with the stage if that ends before" * bool(
        stage.until and run.weight_cut_off(stage, stage.start)
    )
    return (
        f"layer {layer} of {stage.config.layers} is aligned with the last one of {align.teacher} ({shape}), frozen, at "
        f"weight {weight:.3g} falling to 0 at {run.moment(align.end)}{cost}"
    )


def _fp8(run: Run) -> Iterator[str]:
    if run.recipe.fp8:
        yield "linear layers of blocks multiply in FP8; FLOPs and bytes are counted as without it"


def _changing_nodes(run: Run) -> Iterator[str]:
    """What the result depends on where nodes come and go."""
    recipe = run.recipe
    if recipe.faults.min_nodes is None:
        return
    difference = "draws other dropout masks and adds up" if run.has_dropout else "adds up"
    if any(stage.clips_on_ranks for stage in run.stages):
        difference = f"clips other gradients, {difference}"
    yield (
        f"nodes may come and go, down to {recipe.faults.min_nodes}: batches, data and schedule stay; "
        f"another number of ranks {difference} in another order"
    )
    if recipe.batch.micro is None:
        yield "batch.micro is not set: fewer ranks compute more rows at a time; set it to bound their memory"


def _clipping_on_ranks(run: Run) -> Iterator[str]:
    """Where gradients are not clipped by their global norm."""
    for stage in run.stages:
        if stage.clips_on_ranks:
            optimizer = stage.optimizer
            number = len(gradient_buckets(stage.config, optimizer.clip_bucket_mb))
            yield (
                f"{stage.name}: each of {stage.data_parallel} data-parallel ranks clips its own gradient, in {number} "
                f"buckets of {optimizer.clip_bucket_mb:g} MB to {optimizer.grad_clip / math.sqrt(number):.3g} each; it "
                "stays whole until it is reduced, after the last backward pass"
            )


def _savings_table(run: Run) -> Table:
    target = target_config(run)
    table = WholeTable(title=f"FLOPs compared with the target from scratch ({target.summary()})", **_STYLE)
    table.add_column("stage")
    for heading in ("length", "step of the target", "step here", "share"):
        table.add_column(heading, justify="right")
    for stage in run.stages:
        of_target, of_run = target_flops(run, stage, target), stage_flops(stage)
        table.add_row(
            stage.name, run.moment(stage.length), f"{of_target:.3g}", f"{of_run:.3g}", f"{of_run / of_target:.1%}"
        )
    costs = compare_costs(run)
    table.add_section()
    if of_pilots := pilot_flops(run):
        table.add_row("two pilots", "", "", f"{of_pilots:.3g}", f"{of_pilots / costs.target:.1%}")
    if of_maps := sum(learning_flops(before, stage) for before, stage in pairwise(run.stages)):
        table.add_row("learned maps", "", "", f"{of_maps:.3g}", f"{of_maps / costs.target:.1%}")
    table.add_row(
        "run", run.moment(run.end), f"{costs.target:.3g}", f"{costs.run:.3g}", f"{1 / (1 + costs.speedup):.1%}"
    )
    return table


def _savings_notes(run: Run) -> Iterator[Text]:
    """The speedup by the formula, the speedup in the paper, and what the formula assumes."""
    costs, paper, length = compare_costs(run), run.recipe.paper, run.stages[-1].sequence
    yield Text(f"speedup (target / this run - 1, at equal steps): {costs.speedup:+.1%} on the same rows")
    if costs.target_at_full_length != costs.target:
        yield Text(
            f"{costs.full_length_speedup:+.1%} if short rows count as savings, too "
            f"(all rows of the target have {length} tokens)"
        )
    if paper is not None:
        figures = []
        if paper.flop_speedup is not None:
            gap = 100 * (costs.speedup - paper.flop_speedup)
            figures.append(f"{paper.flop_speedup:+.1%} FLOPs (the formula is {gap:+.1f} points off)")
        if paper.wall_speedup is not None:
            figures.append(f"{paper.wall_speedup:+.1%} in time")
        figures += [paper.claim] if paper.claim else []
        yield Text(f"paper: {'; '.join(figures)} [{paper.source}]")
    rows = dict.fromkeys((stage.sequence, stage.predicted_share) for stage in run.stages)
    predictions = (f"{length * share:.4g} in {length}" for length, share in rows)
    yield Text(
        "formula: F = 6 N s + 12 L h s^2 + 6 P (h^2 + V h) for a row of s tokens with P predictions "
        f"({', '.join(predictions)}), the backward pass counted as twice the forward\n"
    )


def _memory_table(run: Run, on_cpu: bool) -> Table:
    table = WholeTable(
        title=f"bytes per rank (peak: the maximum in a step, on a {'CPU' if on_cpu else 'GPU'})", **_STYLE
    )
    for heading in ("stage", "TP x DP", "ZeRO"):
        table.add_column(heading)
    of_gpu = () if on_cpu else ("of the GPU",)
    has_teacher = any(stage.align for stage in run.stages)
    held_for = ("weights", *["teacher"] * has_teacher, "gradients", "optimizer")
    for heading in (*held_for, "activations", "buffers", "peak", *of_gpu, "host memory"):
        table.add_column(heading, justify="right")
    rows = (row for stage in run.stages for row in _memory_rows(run, stage, on_cpu))
    for name, zero, stage, held, step in rows:
        peak = peak_bytes(held, step, on_cpu)
        of_teacher = [held.teacher] * has_teacher
        parts = [held.weights, *of_teacher, held.gradients, held.optimizer, step.activations, step.buffers, peak]
        if not on_cpu:
            parts.append(held_bytes(peak, run.num_ranks))
        table.add_row(
            name,
            f"{stage.tensor_parallel} x {stage.data_parallel}{', sequence' * stage.sequence_parallel}",
            zero,
            *map(_bytes, parts),
            _bytes(held.host) if held.host else "-",
        )
    return table


def _memory_rows(run: Run, stage: ResolvedStage, on_cpu: bool) -> Iterator[MemoryRow]:
    """What a rank holds in the steps of a stage, and before them where the stage's operators learn their maps."""
    for held, step in learning_bytes(run, stage, on_cpu):
        yield f"{stage.name}: maps", "-", stage, held, step
    held, step = stage_bytes(stage, on_cpu)
    yield stage.name, f"{stage.zero_stage}{' + offload' if held.host else ''}", stage, held, step


def _schedule_table(run: Run) -> Table:
    table = WholeTable(title="learning rate", **_STYLE)
    table.add_column("at", justify="right")
    table.add_column("stage")
    table.add_column("learning rate", justify="right")
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


_STYLE: dict[str, Any] = dict(box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
