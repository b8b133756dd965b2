"""Trains the runs of a comparison that are not there yet, as many as fit into some minutes."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from model.errors import UserError
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
                f"{recipes[0]} has {key} {tasks[0][key]} and {name} {task[key]}, so that their losses cannot be "
                f"compared; leave one out, or --set {key.split()[0]}=..."
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
