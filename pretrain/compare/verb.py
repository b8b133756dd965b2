"""The verb `compare`: trains what is missing, reads the runs, writes table, picture, page and JSON."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from model.errors import UserError
from pretrain.compare.runs import COSTS, FinishedRun, Method, methods
from pretrain.compare.speedup import Speedup, speedup

HEADINGS = (
    "method", "role", "shape", "seeds", "valid loss", "accuracy", "FLOPs", "FLOP speedup", "wall speedup",
    "device speedup", "over small too", "verdict",
)  # fmt: skip
COLOURS = {"from scratch": "#8d8d8d", "grown": "#2f6690", "small": "#d1495b"}


@dataclass(frozen=True)
class Line:
    """One method of the comparison."""

    method: Method
    speedups: dict[str, Speedup]
    """By currency, over the full model from scratch; empty for the baseline itself."""
    over_best: Speedup | None
    """In FLOPs, over the better of the full model and the small one from scratch; for grown runs only."""

    def to_json(self, scale: str) -> dict[str, Any]:
        flops, wall = self.speedups["flops"], self.speedups["seconds"]
        return {
            "method": self.method.name,
            "role": self.method.role,
            "scale": scale,
            "flop_speedup": flops.reading.factor,
            "bound": flops.reading.bound,
            "wall_speedup": wall.reading.factor,
            "device_speedup": self.speedups["device_seconds"].reading.factor,
            "flop_speedup_over_best": self.over_best.reading.factor if self.over_best else None,
            "significant_over_best": self.over_best.significant if self.over_best else None,
            "low": flops.low,
            "high": flops.high,
            "significant": flops.significant,
            "seeds": len(self.method.runs),
            "valid_loss": median(self.method.losses),
        }


def compare(paths: Sequence[Path], out: Path, scale: str) -> list[Line]:
    """Reads finished runs and writes compare.json, compare.png and compare.html into `out`; prints the table."""
    found = methods([FinishedRun.read(path) for path in paths])
    found.sort(key=lambda method: (list(COLOURS).index(method.role), method.name))
    lines = [_judge(method, found) for method in found]
    out.mkdir(parents=True, exist_ok=True)
    values = [line.to_json(scale) for line in lines if line.speedups]
    (out / "compare.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    _draw(lines, out / "compare.png")
    _write_page(lines, out)
    _console().print(_table(lines))
    print(f"{out / 'compare.html'}, compare.png and compare.json beside it")
    return lines


def _judge(method: Method, found: Sequence[Method]) -> Line:
    full = [other for other in found if other.role == "from scratch"]
    plain = [other for other in found if other.role != "grown"]
    return Line(
        method,
        {} if method in full else {cost: speedup(method, full, cost) for cost in COSTS},
        speedup(method, plain, "flops") if method.role == "grown" else None,
    )


def train_missing(
    recipes: Sequence[str], seeds: int, overrides: Sequence[str], minutes: float, runs: Path, nproc: int
) -> list[Path]:
    """Trains every recipe under every seed that has no finished folder yet, until the minutes are spent.

    Runs go round by round, so that a short allotment leaves whole rounds; one that is cut off goes on next time.
    Returns the folders that are finished.
    """
    deadline = time.monotonic() + minutes * 60
    queue = [(recipe, seed) for seed in range(seeds) for recipe in recipes]
    folders = []
    for recipe, seed in queue:
        name = f"{Path(recipe).stem}-seed{seed}"
        folder = runs / name
        if not (folder / "summary.json").is_file():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
            command += ["-m", "pretrain", "train", recipe, "--runs", str(runs), "--name", name, "--set", f"seed={seed}"]
            for override in overrides:
                command += ["--set", override]
            print(f"training {name}", file=sys.stderr)
            try:
                done = subprocess.run(command, timeout=left)
            except subprocess.TimeoutExpired:
                print(f"{name}: out of time; it goes on from its last checkpoint next time", file=sys.stderr)
                break
            if done.returncode:
                raise UserError(f"training {name} failed (exit code {done.returncode}); its message is above")
        folders.append(folder)
    return folders


def _table(lines: Sequence[Line]) -> Table:
    table = Table(title="against from-scratch runs, each with its own full decay")
    for heading in HEADINGS:
        table.add_column(heading)
    for line in lines:
        table.add_row(*_cells(line))
    return table


def _cells(line: Line) -> list[str]:
    runs = line.method.runs
    cells = [
        line.method.name,
        line.method.role,
        runs[0].shape,
        str(len(runs)),
        f"{median(line.method.losses):.4f} ({min(line.method.losses):.4f}..{max(line.method.losses):.4f})",
        f"{median(run.valid_accuracy for run in runs):.1%}",
        f"{median(run.costs['flops'] for run in runs):.3g}",
    ]
    if not line.speedups:
        return [*cells, *["1 by definition"] * 3, "", "baseline"]
    flops, wall, device = (line.speedups[cost] for cost in ("flops", "seconds", "device_seconds"))
    cells += [f"{flops.reading} ({flops.low:.2f}..{flops.high:.2f})", str(wall.reading), str(device.reading)]
    verdict = "significant" if flops.significant else "not significant"
    return [*cells, _with_verdict(line.over_best), verdict]


def _with_verdict(over_best: Speedup | None) -> str:
    if over_best is None:
        return ""
    return f"{over_best.reading}" + ("" if over_best.significant else ", not significant")


def _draw(lines: Sequence[Line], picture: Path) -> None:
    """Final loss against each currency, every run a point, the baseline's budgets joined; curves of every run below."""
    figure, rows = plt.subplots(2, 2, figsize=(11, 8), dpi=100, layout="constrained")
    for axes, currency in zip(rows[0], ("flops", "seconds"), strict=True):
        for line in lines:
            points = sorted((run.costs[currency], run.valid_loss) for run in line.method.runs)
            axes.plot(*zip(*points, strict=True), "o", color=COLOURS[line.method.role], label=line.method.name)
        axes.set(xlabel=f"cost of the run ({currency})", ylabel="final validation loss", xscale="log")
    rows[0][0].legend(fontsize="small")
    for axes, currency in zip(rows[1], ("flops", "seconds"), strict=True):
        for line in lines:
            for run in line.method.runs:
                _draw_curve(axes, run, currency, COLOURS[line.method.role])
        axes.set(xlabel=currency, ylabel="training loss (running mean)")
    figure.savefig(picture)
    plt.close(figure)


def _draw_curve(axes: Axes, run: FinishedRun, currency: str, colour: str) -> None:
    text = (run.path / "metrics.jsonl").read_text("utf-8")
    steps = [line for line in map(json.loads, text.splitlines()) if "event" not in line]
    width = max(1, len(steps) // 50)
    chunks = [steps[first : first + width] for first in range(0, len(steps), width)]
    means = [sum(step["mlm_loss"] for step in chunk) / len(chunk) for chunk in chunks]
    axes.plot([chunk[-1][currency] for chunk in chunks], means, color=colour, linewidth=1)
    for event in run.growth:
        at = next((step[currency] for step in steps if step["step"] > event["step"]), None)
        if at is not None:
            axes.plot(at, event["loss_after"], "v", color=colour, markersize=5)


def _write_page(lines: Sequence[Line], out: Path) -> None:
    head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(line))}</tr>" for line in lines)
    growth = "".join(
        f"<tr><td>{escape(run.path.name)}</td><td>{escape(event['operator'])}</td><td>{event['step']}</td>"
        f"<td>{event['loss_before']:.4f}</td><td>{event['loss_after']:.4f}</td></tr>"
        for line in lines
        for run in line.method.runs
        for event in run.growth
    )
    picture = base64.b64encode((out / "compare.png").read_bytes()).decode()
    page = f"""<!doctype html><meta charset=utf-8><title>Does it pay?</title>
<style>body{{font:15px system-ui;margin:2rem auto;max-width:75rem}}td,th{{padding:.3rem .7rem;text-align:left}}</style>
<h1>Does it pay?</h1>
<p>Speedup: cost of the from-scratch run that ends at the same validation loss, interpolated over budgets with a full
decay of their own, over the method's cost. In brackets: over all pairings of seeds. &gt;= and &lt;= mark methods beyond
every budget; nothing is extrapolated. Device speedup counts processor seconds on a CPU, which other users of the
machine do not stretch. "Over small too": against the better of the full and the small model from scratch.</p>
<table><tr>{head}</tr>{body}</table><img alt="loss against cost" src="data:image/png;base64,{picture}">
<h2>Changes of shape</h2>
<table><tr><th>run</th><th>operator</th><th>step</th><th>loss before</th><th>after</th></tr>{growth}</table>
"""
    (out / "compare.html").write_text(page, "utf-8")


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 180
    return console
