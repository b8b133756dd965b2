"""The same run on other numbers of nodes, and in other layouts: which is the fastest, and which the cheapest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from rich import box
from rich.table import Table

from model.errors import UserError
from pretrain.cost.time.machine import Machine
from pretrain.cost.time.run import RunTime, run_time
from pretrain.cost.time.tables import gib_of_a_rank, hours
from pretrain.recipe import ResolvedStage, Run
from pretrain.settings.tables import WholeTable

MOST_SHOWN = 20
EXAMPLE = "--sweep nodes=1,2,4,8 or --sweep layout"


@dataclass(frozen=True)
class Choice:
    """One line of a sweep."""

    name: str
    time: RunTime


def read_sweep(text: str) -> list[int] | None:
    """`nodes=1,2,4` -> [1, 2, 4]; `layout` -> None. Raises UserError."""
    axis, _, values = text.partition("=")
    if text == "layout":
        return None
    numbers = values.split(",")
    if axis != "nodes" or not all(each.isascii() and each.isdigit() and int(each) > 0 for each in numbers):
        raise UserError(f"--sweep {text!r} is unknown; write {EXAMPLE}")
    return [int(each) for each in numbers]


def over_nodes(
    resolved: Callable[[int], Run], machine: Machine, ranks: int, numbers: list[int], segment: float | None
) -> tuple[list[Choice], list[str]]:
    """The choices, fastest first, and a line for each number of nodes that the recipe does not allow. `resolved` gives
    the run for a number of ranks; `ranks` is how many a node has."""
    found, left_out = [], []
    for number in numbers:
        name = f"{number} node{'s' * (number > 1)}"
        try:
            found.append(Choice(name, run_time(resolved(number * ranks), machine, segment)))
        except UserError as error:
            left_out.append(f"{name}: left out: {error}")
    return sorted(found, key=lambda choice: choice.time.seconds), left_out


def over_layouts(run: Run, machine: Machine, segment: float | None) -> tuple[list[Choice], list[str]]:
    """Every ZeRO stage, tensor parallelism within a node and micro-batch (powers of two) that fits; fastest first."""
    found, too_large = [], 0
    largest = max(stage.global_batch for stage in run.stages)
    for zero, tp, micro in product(range(4), _powers(machine.ranks), _powers(largest)):
        stages = tuple(_with_layout(stage, zero, tp, micro, run.num_ranks) for stage in run.stages)
        if all(stages) and micro == max(stage.micro_batch for stage in stages if stage):
            other = replace(run, stages=tuple(stage for stage in stages if stage))
            time = run_time(other, machine, segment)
            if machine.memory_gib and any(gib_of_a_rank(time, stage) > machine.memory_gib for stage in other.stages):
                too_large += 1
            else:
                found.append(Choice(f"ZeRO {zero}, TP {tp}, micro-batch {micro}", time))
    lines = [f"{too_large} more do not fit {machine.memory_gib:g} GiB"] if too_large else []
    return sorted(found, key=lambda choice: choice.time.seconds), lines


def sweep_table(choices: list[Choice]) -> Table:
    """`scaling`: of GPU-hours, against the line with the fewest nodes."""
    first = min(choices, key=lambda choice: choice.time.num_nodes).time
    table = WholeTable(title=f"on {first.machine.name}, the fastest first", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("choice")
    for heading in ("hours", "rank-hours", "price", "scaling", "tokens/s a rank", "exposed messages", "GiB a rank"):
        table.add_column(heading, justify="right")
    for choice in choices[:MOST_SHOWN]:
        time = choice.time
        last = time.stages[-1]
        table.add_row(
            choice.name,
            hours(time.seconds),
            f"{time.rank_hours:,.3g}" if time.rank_hours < 1000 else f"{time.rank_hours:,.0f}",
            "-" if time.price is None else f"{time.price:,.0f}",
            f"{first.rank_hours / time.rank_hours:.0%}",
            f"{last.step.tokens_per_second:,.0f}",
            f"{last.step.communication / last.step.seconds:.0%}",
            f"{max(gib_of_a_rank(time, each.stage) for each in time.stages):.3g}",
        )
    return table


def _with_layout(stage: ResolvedStage, zero: int, tp: int, micro: int, num_ranks: int) -> ResolvedStage | None:
    """None where ranks, heads or rows do not divide. A stage with fewer rows a rank than `micro` takes all of them."""
    if num_ranks % tp or stage.global_batch % (num_ranks // tp):
        return None
    try:
        stage.config.check_tensor_parallel(tp)
    except UserError:
        return None
    data_parallel = num_ranks // tp
    rows = stage.global_batch // data_parallel
    size = min(micro, rows)
    if rows % size:
        return None
    return replace(
        stage,
        tensor_parallel=tp,
        sequence_parallel=stage.sequence_parallel and tp > 1,
        data_parallel=data_parallel,
        micro_batch=size,
        accumulation=rows // size,
        zero_stage=zero,
        deepspeed=stage.deepspeed | {"zero_optimization": stage.deepspeed["zero_optimization"] | {"stage": zero}},
    )


def _powers(limit: int) -> Iterator[int]:
    number = 1
    while number <= limit:
        yield number
        number *= 2
