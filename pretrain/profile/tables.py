"""What `profile` prints."""

import sys
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.markup import escape

from model.errors import UserError
from pretrain.profile.measurement import Measurement
from pretrain.recipe.schema import Precision
from pretrain.settings.tables import WholeTable


def say_measured(label: str, result: Measurement) -> None:
    print(
        f"{label}: {result.seconds * 1e3:,.1f} ms, {result.tokens_per_second:,.0f} tokens/s, "
        f"{result.peak_bytes / 2**20:,.0f} MiB a rank",
        flush=True,
    )


def say_left_out(label: str, error: UserError) -> None:
    print(f"{label}: left out: {error}", file=sys.stderr, flush=True)


def print_table(table: WholeTable) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)


def measurement_table(found: dict[str, Measurement], limit: float | None) -> WholeTable:
    """Configurations side by side. `limit`: measured matmul FLOP/s of one rank's device, or None."""
    table = WholeTable(title="one optimizer step", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("configuration")
    of_the_limit = ["of the\nlimit"] if limit else []
    for heading in ("ms", "spread", "tokens/s", "useful\nTFLOP/s", *of_the_limit, "peak MiB\na rank", "predicted"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, result in found.items():
        spread = f"{min(result.step_seconds) * 1e3:.0f}..{max(result.step_seconds) * 1e3:.0f}"
        shares = [f"{result.useful_flops_per_second / (limit * result.ranks):.0%}"] if limit else []
        table.add_row(
            label,
            f"{result.seconds * 1e3:.1f}",
            spread,
            f"{result.tokens_per_second:,.0f}",
            f"{result.useful_flops_per_second / 1e12:.3f}",
            *shares,
            f"{result.peak_bytes / 2**20:,.0f}",
            f"{result.predicted_bytes / 2**20:,.0f}",
        )
    return table


def breakdown_table(result: Measurement) -> WholeTable:
    """Where the step goes: the phases, both passes by module, communication, and the longest operators."""
    breakdown = result.breakdown
    assert breakdown is not None
    table = WholeTable(title="where a step goes, under the profiler (rank 0)")
    table.add_column("part")
    for heading in ("ms", "share", "GFLOP/s", "GB/s"):
        table.add_column(heading, justify="right")
    for heading, parts in breakdown.sections().items():
        if not parts:
            continue
        table.add_section()
        table.add_row(f"[bold]{heading}[/bold]", "", "", "", "")
        shares = percentages(parts.values(), breakdown.step)
        for (name, milliseconds), share in zip(parts.items(), shares, strict=True):
            rates = breakdown.rates(heading, name)
            shown = [f"{rate / 1e9:,.1f}" for rate in rates] if rates else ["", ""]
            table.add_row(f"  {escape(name)}", f"{milliseconds:.2f}", f"{share:.1f}%", *shown)
        if heading == "phases":
            table.add_row("  step", f"{breakdown.step:.2f}", "100.0%", "", "")
    return table


def percentages(parts: Iterable[float], whole: float) -> list[float]:
    """Of `whole`, in tenths of a percent, rounded so that they add up to what the parts make together."""
    exact = [1000 * part / whole if whole else 0.0 for part in parts]
    rounded = [int(share) for share in exact]
    missing = round(sum(exact)) - sum(rounded)
    for index in sorted(range(len(exact)), key=lambda index: rounded[index] - exact[index])[:missing]:
        rounded[index] += 1
    return [tenths / 10 for tenths in rounded]


def matmul_limit(precision: Precision) -> float:
    """Measured on this machine with the threads that one process has."""
    from pretrain.engine.build import PRECISIONS
    from pretrain.engine.distributed import device
    from pretrain.profile.peak import matmul_flops_per_second

    return matmul_flops_per_second(device(), PRECISIONS[precision])
