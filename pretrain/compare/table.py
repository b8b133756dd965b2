"""The table of a comparison, for the console and the page."""

from collections.abc import Sequence
from statistics import median

from rich.console import Console

from pretrain.compare.judge import Line
from pretrain.compare.speedup import Paired, Speedup
from pretrain.settings.tables import WholeTable

HEADINGS = (
    "name", "role", "shape", "seeds", "valid loss", "accuracy", "FLOPs", "FLOP speedup", "wall speedup",
    "device speedup", "over small too", "verdict", "paired by seed",
)  # fmt: skip


def print_table(lines: Sequence[Line]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table_of(lines))


def table_of(lines: Sequence[Line]) -> WholeTable:
    table = WholeTable(title="against from-scratch runs, each with its own full decay")
    for heading in HEADINGS:
        table.add_column(heading)
    for line in lines:
        table.add_row(*cells(line))
    return table


def cells(line: Line) -> list[str]:
    """One for each of HEADINGS."""
    runs, losses = line.contender.runs, line.contender.losses
    values = [
        line.contender.name,
        line.contender.role,
        runs[0].shape,
        str(len(runs)),
        f"{median(losses):.4f} ({min(losses):.4f}..{max(losses):.4f})",
        f"{median(run.valid_accuracy for run in runs):.1%}",
        f"{median(run.costs['flops'] for run in runs):.3g}",
    ]
    if not line.speedups:
        return [*values, *["1 by definition"] * 3, "", "baseline", ""]
    flops, wall, device = (line.speedups[cost] for cost in ("flops", "seconds", "device_seconds"))
    values += [f"{flops.reading} ({flops.low:.2f}..{flops.high:.2f})", str(wall.reading), str(device.reading)]
    return [*values, _over_best(line.over_best), flops.verdict, _paired(flops.paired)]


def _over_best(over_best: Speedup | None) -> str:
    if over_best is None:
        return ""
    return f"{over_best.reading}" + ("" if over_best.verdict == "significant" else f", {over_best.verdict}")


def _paired(paired: Paired) -> str:
    readings = " ".join(str(reading) for reading in paired.readings.values())
    return f"{readings}, significant" if paired.significant else readings
