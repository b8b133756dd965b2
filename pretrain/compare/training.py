"""Trains the missing runs of a comparison, as many as fit into some minutes."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from model.errors import UserError
from pretrain.engine.exits import Stop
from pretrain.launch.local import run_here
from pretrain.launch.outcome import ExitCode
from pretrain.launch.start import train_arguments
from pretrain.recipe import load_recipe, resolve
from pretrain.runs.folder import RunFolder


class RunFailed(UserError):
    """A run that a fault ended. Others can be trained."""


@dataclass(frozen=True)
class Entry:
    """A recipe at one budget."""

    recipe: str
    budget: str = ""
    """Steps, or hours as `0.5h`; empty: the recipe's own."""
    variant: str = ""
    """The name of a variant of the recipe, which has `settings`; empty: the recipe as it is."""
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its runs, without the seed."""
        return (self.variant or Path(self.recipe).stem) + (f"-{self.budget}" if self.budget else "")

    @property
    def overrides(self) -> tuple[str, ...]:
        own = (f"name={self.variant}", *self.settings) if self.variant else ()
        if not self.budget:
            return own
        return (*own, f"hours={self.budget[:-1]}" if self.budget.endswith("h") else f"steps={self.budget}")

    def run(self, seed: int) -> str:
        """The name of a run."""
        return f"{self.name}-seed{seed}"


def read_entries(text: str) -> list[Entry]:
    """`mini@1000@2000,stack-mini`: recipes separated by commas, each at the budgets after it."""
    return [entry for part in text.split(",") for entry in _entries(part.strip())]


def _entries(text: str) -> Iterator[Entry]:
    recipe, *budgets = text.split("@")
    for budget in budgets:
        if not re.fullmatch(r"[1-9][0-9_]*|[0-9]*\.?[0-9]+h", budget):
            raise UserError(f"--recipes {text}: {budget!r} is no budget; write steps, or hours such as 0.5h")
        yield Entry(recipe, budget)
    if not budgets:
        yield Entry(recipe)


def check_comparable(entries: Sequence[Entry], overrides: Sequence[str], nproc: int) -> None:
    """Raises UserError where the losses of two recipes could not be compared after hours of training."""
    recipes = [entry.recipe for entry in entries]
    read = [load_recipe(entry.recipe, (*overrides, *entry.overrides)) for entry in entries]
    tasks = [
        {f"data.{key}": value for key, value in recipe.data}
        | {"validation.rows": recipe.validation.rows}
        | {"sequence in the last stage": resolve(recipe, None, nproc).stages[-1].sequence}
        for recipe in read
    ]
    for name, task in zip(recipes, tasks, strict=True):
        key = next((key for key in task if task[key] != tasks[0][key]), None)
        if key:
            raise UserError(
                f"{recipes[0]} has {key} {tasks[0][key]} and {name} {task[key]}, so their losses cannot be "
                f"compared; leave one out, or --set {key.split()[0]}=..."
            )


def train_missing(
    entries: Sequence[Entry], seeds: int, overrides: Sequence[str], minutes: float, runs: Path, nproc: int
) -> list[Path]:
    """Trains every entry under every seed that has no finished folder yet, until the minutes are spent.

    Goes round by round, so that whatever time there is leaves whole rounds. The run that the end of the minutes
    interrupts saves itself, and resumes next time. After one that fails, the other entries go on; its own other seeds
    are left out until next time. Returns the folders that are finished. Raises RunFailed if a run has failed and none
    has finished.
    """
    deadline = time.monotonic() + minutes * 60
    finished: list[Path] = []
    failed: dict[Entry, RunFailed] = {}
    for seed, entry in product(range(seeds), entries):
        folder = runs / entry.run(seed)
        if not (folder / "summary.json").is_file():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if entry in failed:
                continue
            try:
                if not train_one(entry, seed, overrides, left, runs, nproc):
                    break
            except RunFailed as fault:
                failed[entry] = fault
                print(f"{fault}; other seeds of {entry.name} are left out until next time", file=sys.stderr)
                continue
        finished.append(folder)
    if failed and not finished:
        raise next(iter(failed.values()))
    return finished


def train_one(entry: Entry, seed: int, overrides: Sequence[str], seconds: float, runs: Path, nproc: int) -> bool:
    """Trains a run, or resumes it, for at most `seconds`. Returns whether it has finished.

    Raises RunFailed if it fails, Stop if it was stopped by a signal, and KeyboardInterrupt after Ctrl-C.
    """
    name, deadline = entry.run(seed), time.monotonic() + seconds
    print(f"training {name}", file=sys.stderr)
    arguments = train_arguments(entry.recipe, (f"seed={seed}", *overrides, *entry.overrides), name, runs)
    code = run_here(["pretrain", *arguments], nproc, seconds=seconds)
    if time.monotonic() > deadline and not (runs / name / "summary.json").is_file():
        print(f"{name}: out of time; it resumes from its latest checkpoint next time", file=sys.stderr)
        return False
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code == ExitCode.PREEMPTED:
        raise Stop(f"training {name} was stopped by a signal and saved; the same command resumes it", code)
    if code:
        logs = RunFolder(runs / name).logs
        told = f"its output is in {logs}" if logs.is_dir() else "its message is above"
        raise RunFailed(f"training {name} failed (exit code {code}); {told}")
    return True
