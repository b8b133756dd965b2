"""Trains the missing runs of a comparison, as many as fit into some minutes."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from model.errors import UserError
from pretrain.engine.exits import Stop
from pretrain.launch.local import run_here
from pretrain.launch.outcome import ExitCode
from pretrain.launch.start import train_arguments
from pretrain.recipe import load_recipe, resolve


def check_comparable(recipes: Sequence[str], overrides: Sequence[str], nproc: int) -> None:
    """Raises UserError where the losses of two recipes could not be compared after hours of training."""
    read = [load_recipe(recipe, overrides) for recipe in recipes]
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
    recipes: Sequence[str], seeds: int, overrides: Sequence[str], minutes: float, runs: Path, nproc: int
) -> list[Path]:
    """Trains every recipe under every seed that has no finished folder yet, until the minutes are spent.

    Goes round by round, so that whatever time there is leaves whole rounds. The run that the end of the minutes
    interrupts saves itself, and resumes next time. Returns the folders that are finished.
    """
    deadline = time.monotonic() + minutes * 60
    finished: list[Path] = []
    for seed in range(seeds):
        for recipe in recipes:
            name = f"{Path(recipe).stem}-seed{seed}"
            if not (runs / name / "summary.json").is_file():
                left = deadline - time.monotonic()
                if left <= 0:
                    return finished
                print(f"training {name}", file=sys.stderr)
                arguments = train_arguments(recipe, (f"seed={seed}", *overrides), name, runs)
                code = run_here(["pretrain", *arguments], nproc, seconds=left)
                if time.monotonic() > deadline and not (runs / name / "summary.json").is_file():
                    print(f"{name}: out of time; it resumes from its latest checkpoint next time", file=sys.stderr)
                    return finished
                if code == ExitCode.INTERRUPTED:
                    raise KeyboardInterrupt
                if code == ExitCode.PREEMPTED:
                    raise Stop(f"training {name} was stopped by a signal and saved; the same command resumes it", code)
                if code:
                    raise UserError(f"training {name} failed (exit code {code}); its message is above")
            finished.append(runs / name)
    return finished
