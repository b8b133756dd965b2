"""What `plan --on MACHINE` prints."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from pretrain.cost.learning import most_bytes
from pretrain.cost.memory import held_bytes
from pretrain.cost.savings import changes_shape
from pretrain.cost.time.machine import Machine
from pretrain.cost.time.run import RunTime, disk_bytes
from pretrain.recipe import ResolvedStage, Run
from pretrain.settings.tables import WholeTable

GIB = 2**30


def print_times(time: RunTime, console: Console | None = None) -> None:
    console = console or Console()
    if not console.is_terminal:
        console.width = 140
    console.print(times_table(time))


def times_table(time: RunTime) -> Table:
    machine, num_nodes = time.machine, time.num_nodes
    nodes = f"{num_nodes} node{'s' * (num_nodes > 1)}"
    table = WholeTable(
        title=f"time on {machine.name}, {nodes}, {time.run.num_ranks} ranks: milliseconds of a step",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("stage")
    for heading in ("step", "forward", "backward", "exposed messages", "optimizer", "rest", "hidden messages"):
        table.add_column(heading, justify="right")
    for heading in ("tokens/s a rank", "of the peak", "steps", "hours"):
        table.add_column(heading, justify="right")
    for each in time.stages:
        step = each.step
        parts = (step.seconds, step.forward, step.backward, step.communication, step.optimizer, step.rest, step.hidden)
        table.add_row(
            each.stage.name,
            *(milliseconds(part) for part in parts),
            f"{step.tokens_per_second:,.0f}",
            f"{step.share_of(machine.of(each.stage.precision).peak):.0%}",
            f"{each.num_steps:,.0f}",
            hours(each.seconds),
        )
    return table


def time_lines(time: RunTime, corpus_bytes: int | None) -> Iterator[str]:
    """Hours, money, what was saved, disk, and how far all this may be off."""
    machine, unit = time.machine, "process" if time.machine.on_cpu else "GPU"
    between = sum(each.entry.seconds + each.validation + each.checkpoints for each in time.stages)
    yield (
        f"the run: {hours(time.seconds)} hours, {hours(between)} of them changes of shape, validation and checkpoints"
        + (f", {hours(time.pilots)} two pilots" if time.pilots else "")
        + f"; {time.rank_hours:,.3g} {unit}-hours"
        + _money(time)
    )
    if changes_shape(time.run):
        yield (
            f"from scratch in the target's shape: {hours(time.from_scratch)} hours; "
            f"the run saves {time.saving:.1%} of the time"
        )
    corpus = "" if corpus_bytes is None else f", and {corpus_bytes / 1e9:,.3g} GB of corpus"
    yield f"disk at most: {disk_bytes(time) / 1e9:,.3g} GB of checkpoints{corpus}"
    yield standing_still(time)
    yield from too_large(time)
    yield from expected_error(machine)


def standing_still(time: RunTime) -> str:
    """The longest checkpoint and every change of shape, in steps of their stage."""
    longest = max(time.stages, key=lambda each: each.pause)
    parts = [f"{longest.pause:.2g} s for a checkpoint ({longest.pause / longest.step.seconds:.2g} steps)"]
    for each in time.stages:
        if each.entry.seconds:
            moving = f"{each.entry.moving:.2g} s to move the state ({each.entry.moving / each.step.seconds:.2g} steps)"
            learning = f"{each.entry.learning:.2g} s to learn its maps, " if each.entry.learning else ""
            building = f"{each.entry.building:.2g} s to build the engine of {each.stage.name}"
            parts.append(f"{learning}{moving} and {building}")
    return f"steps stand still {', '.join(parts)}"


def expected_error(machine: Machine) -> Iterator[str]:
    yield f"expected error of a step: {machine.error_percent:g}% ({machine.error_source})"
    if not machine.measured:
        yield f"nobody has measured {machine.name} yet: `./launch.sh profile --calibrate NAME` does, on such a machine"


def too_large(time: RunTime) -> Iterator[str]:
    """A line for each stage that does not fit a GPU."""
    for each in time.stages:
        needed, held = gib_of_a_rank(time, each.stage), time.machine.memory_gib
        if held and needed > held:
            yield (
                f"warning: stage {each.stage.name} takes {needed:.0f} GiB of a GPU that has {held:.0f}: "
                "set a smaller batch.micro, or a higher ZeRO stage"
            )


def gib_of_a_rank(time: RunTime, stage: ResolvedStage) -> float:
    return gib_of(time.run, stage, time.machine.on_cpu)


def gib_of(run: Run, stage: ResolvedStage, on_cpu: bool) -> float:
    """What a rank takes of its memory, or of its GPU's, in a stage of a run."""
    peak = most_bytes(run, stage, on_cpu)
    return (peak if on_cpu else held_bytes(peak, run.num_ranks)) / GIB


def _money(time: RunTime) -> str:
    if time.price is None:
        return "; for a price, set `price` in the machine's file" if not time.machine.on_cpu else ""
    return f"; at {time.machine.price:g} each, {time.price:,.0f}"


def hours(seconds: float) -> str:
    """Three digits."""
    return f"{seconds / 3600:,.3g}" if seconds < 3600 * 1000 else f"{seconds / 3600:,.0f}"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}" if seconds < 1 else f"{1e3 * seconds:,.0f}"
