"""The comparison as tables for other programs: compare.csv has a row for each contender, runs.csv for each run."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pretrain.compare.judge import Line
from pretrain.compare.runs import COSTS

Row = dict[str, Any]


def write_csv(lines: Sequence[Line], out: Path) -> None:
    _write(out / "compare.csv", map(_contender, lines))
    _write(out / "runs.csv", (row for line in lines for row in _runs(line)))


def _contender(line: Line) -> Row:
    """What the table shows, in full precision."""
    contender, runs, losses = line.contender, line.contender.runs, line.contender.losses
    row = {
        "name": contender.name,
        "role": contender.role,
        "shape": runs[0].shape,
        "budget": runs[0].budget,
        "seeds": len(runs),
        "valid_loss": median(losses),
        "valid_loss_low": min(losses),
        "valid_loss_high": max(losses),
        "valid_accuracy": median(run.valid_accuracy for run in runs),
        **{cost: median(run.costs[cost] for run in runs) for cost in COSTS},
    }
    for cost in COSTS:
        found = line.speedups.get(cost)
        row[f"{cost}_speedup"] = found.reading.factor if found else None
        row[f"{cost}_speedup_bound"] = found.reading.bound if found else None
    flops, best = line.speedups.get("flops"), line.over_best
    return row | {
        "flops_speedup_low": flops.low if flops else None,
        "flops_speedup_high": flops.high if flops else None,
        "flops_speedup_over_best": best.reading.factor if best else None,
        "flops_speedup_over_envelope": line.over_envelope.reading.factor,
        "flops_speedup_over_envelope_bound": line.over_envelope.reading.bound,
        "verdict": flops.verdict if flops else "baseline",
    }


def _runs(line: Line) -> Iterable[Row]:
    for run in line.contender.runs:
        yield {
            "name": line.contender.name,
            "role": line.contender.role,
            "seed": run.seed,
            "valid_loss": run.valid_loss,
            "valid_accuracy": run.valid_accuracy,
            **run.costs,
            "folder": str(run.path),
        }


def _write(file: Path, rows: Iterable[Row]) -> None:
    listed = list(rows)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, listed[0])
        writer.writeheader()
        writer.writerows(listed)
