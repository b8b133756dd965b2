"""The verb `profile`: measures a stage, a sweep of layouts, scaling, or the table against Hugging Face."""

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from rich.console import Console

from model.errors import UserError
from pretrain.data import Corpus
from pretrain.launch.local import run_here
from pretrain.launch.requests import PASSED_ON
from pretrain.profile.measurement import Measurement
from pretrain.profile.page import write_page
from pretrain.recipe import load_recipe, resolve
from pretrain.recipe.schema import Precision
from pretrain.settings.tables import WholeTable

AXES = {"micro_batch": "batch.micro", "zero": "deepspeed", "tp": "layout.tensor_parallel"}
"""What a sweep may change, and the key of a stage that says it."""

SWEPT = {"micro_batch": (4, 8, 16, 32, 64), "zero": (0, 1, 2, 3), "tp": (1, 2, 4, 8)}


@dataclass(frozen=True)
class Profile:
    """A recipe and what to measure of it."""

    recipe: str
    overrides: tuple[str, ...]
    stage: int
    nproc: int
    steps: int
    out: Path
    profiled: int = 3
    """Steps more under the profiler; 0: no breakdown and no trace."""

    def run(self, label: str, overrides: Sequence[str] = (), nproc: int | None = None) -> Measurement:
        """One configuration in separate processes. Raises UserError when the recipe does not allow it."""
        nproc = nproc or self.nproc
        overrides = (*self.overrides, *overrides)
        resolve(load_recipe(self.recipe, overrides), self._vocab_size(), nproc)
        file = self.out / f"{label}.json"
        command = ["pretrain.profile.measure", self.recipe, "--out", str(file), "--stage", str(self.stage)]
        command += ["--steps", str(self.steps), "--profiled", str(self.profiled), "--overrides", *overrides]
        file.parent.mkdir(parents=True, exist_ok=True)
        log = file.with_suffix(".log")
        with log.open("wb") as output:
            code = run_here(command, nproc, output=output)
        if code - 128 in (signal.SIGINT, *PASSED_ON):
            raise SystemExit(code)  # the user ends the whole sweep, not this configuration
        if code:
            raise UserError(f"profile of {label} failed (exit code {code}); its output is in {log}")
        log.unlink()
        return Measurement.read(file)

    def _vocab_size(self) -> int:
        """Of the recipe's corpus. Raises UserError where there is none."""
        return Corpus.open(load_recipe(self.recipe, self.overrides).data.corpus).vocab_size

    def sweep(self, axes: Sequence[str]) -> dict[str, Measurement]:
        """Every combination that the recipe and the number of ranks allow, fastest first."""
        for axis in axes:
            if axis not in AXES:
                raise UserError(f"--sweep {axis!r} is unknown; choose from {', '.join(AXES)}, separated by commas")
        self._vocab_size()  # no combination works without a corpus, so this is an error, not a reason to skip
        found: dict[str, Measurement] = {}
        for values in product(*(SWEPT[axis] for axis in axes)):
            label = " ".join(f"{axis} {value}" for axis, value in zip(axes, values, strict=True))
            settings = [
                f"stages.{self.stage}.{AXES[axis]}="
                + (f"ds_configs/zero{value}.json" if axis == "zero" else str(value))
                for axis, value in zip(axes, values, strict=True)
            ]
            try:
                found[label] = self.run(label.replace(" ", "-"), settings)
            except UserError as error:
                print(f"{label}: left out: {error}", file=sys.stderr)
        if not found:
            raise UserError(f"--sweep {','.join(axes)}: no combination ran; the lines above say why")
        return dict(sorted(found.items(), key=lambda item: -item[1].tokens_per_second))

    def scaling(self, counts: Sequence[int]) -> dict[str, Measurement]:
        """Strong scaling (the recipe's global batch on every number of ranks) and weak (rows per rank kept)."""
        rows = resolve(load_recipe(self.recipe, self.overrides), None, self.nproc).stages[self.stage].global_batch
        found = {}
        for count in counts:
            found[f"strong, {count} ranks"] = self.run(f"strong-{count}", nproc=count)
            weak = f"stages.{self.stage}.batch.global={rows * count // counts[0]}"
            found[f"weak, {count} ranks"] = self.run(f"weak-{count}", [weak], nproc=count)
        return found


def print_measurements(found: dict[str, Measurement], limit: float | None) -> None:
    """A table of configurations. `limit`: measured matmul FLOP/s of one rank's device, or None."""
    table = WholeTable(title="one optimizer step")
    for heading in (
        "configuration",
        "ms",
        "spread",
        "tokens/s",
        "useful TFLOP/s",
        "of the limit",
        "peak MiB a rank",
        "predicted",
    ):
        table.add_column(heading, justify="left" if heading == "configuration" else "right")
    for label, result in found.items():
        spread = f"{min(result.step_seconds) * 1e3:.0f}..{max(result.step_seconds) * 1e3:.0f}"
        share = result.useful_flops_per_second / (limit * result.ranks) if limit else None
        table.add_row(
            label,
            f"{result.seconds * 1e3:.1f}",
            spread,
            f"{result.tokens_per_second:,.0f}",
            f"{result.useful_flops_per_second / 1e12:.3f}",
            f"{share:.0%}" if share else "-",
            f"{result.peak_bytes / 2**20:,.0f}",
            f"{result.predicted_bytes / 2**20:,.0f}",
        )
    _console().print(table)


def print_breakdown(result: Measurement) -> None:
    """Where the step goes: the phases, the forward pass by module, collectives, and the longest operators."""
    assert result.breakdown is not None
    table = WholeTable(title="where a step goes, under the profiler (rank 0)")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    total = sum(result.breakdown.phases.values())
    for heading, parts in asdict(result.breakdown).items():
        table.add_section()
        table.add_row(f"[bold]{heading}[/bold]", "", "")
        for name, milliseconds in parts.items():
            table.add_row(f"  {name}", f"{milliseconds:.2f}", f"{milliseconds / total:.0%}")
    _console().print(table)


def save(found: dict[str, Measurement], out: Path, title: str) -> None:
    """profile.json and profile.html."""
    out.mkdir(parents=True, exist_ok=True)
    values = {label: asdict(result) for label, result in found.items()}
    (out / "profile.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    write_page(found, out / "profile.html", title)
    print(f"{out / 'profile.html'}, {out / 'profile.json'}; traces for Perfetto: {out}/*/rank-*.trace.json")


def matmul_limit(precision: Precision) -> float:
    """Measured on this machine with the threads that one process has."""
    from pretrain.engine.build import PRECISIONS
    from pretrain.profile.peak import matmul_flops_per_second

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return matmul_flops_per_second(device, PRECISIONS[precision])


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 140
    return console
