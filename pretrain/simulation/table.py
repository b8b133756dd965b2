"""What a simulation found, as a table."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from pretrain.recipe import Run
from pretrain.settings.tables import WholeTable
from pretrain.simulation.rank import Event


def simulation_table(run: Run, events: Mapping[int, Sequence[Event]]) -> Table:
    """`events`: of each simulated rank, the same in the same order. Of every number the largest among them."""
    ranks = ", ".join(map(str, events))
    table = WholeTable(
        title=f"{run.recipe.name} on {run.num_ranks:,} ranks: the most that one of ranks {ranks} sends and works",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("what")
    table.add_column("seconds of a core", justify="right")
    table.add_column("kind")
    for heading in ("messages", "MB"):
        table.add_column(heading, justify="right")
    for of_ranks in zip(*events.values(), strict=True):
        seconds = max(event.seconds for event in of_ranks)
        name, time = of_ranks[0].name, f"{seconds:.1f}" if seconds else "-"
        for kind in sorted({sent.kind for event in of_ranks for sent in event.sent}) or ["-"]:
            found = [totals(event, kind) for event in of_ranks]
            table.add_row(name, time, kind, *(_digits(max(each)) for each in zip(*found, strict=True)))
            name = time = ""
    return table


def totals(event: Event, kind: str) -> tuple[int, float]:
    """Messages of a kind, and their MB."""
    sent = Counter({each: times for each, times in event.sent.items() if each.kind == kind})
    return sent.total(), sum(each.num_bytes * times for each, times in sent.items()) / 1e6


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
