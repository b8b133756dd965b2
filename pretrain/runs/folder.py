"""The folder of one run: its recipe, versions, metrics, checkpoints and summary."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch.distributed as dist
import yaml
from pydantic import ValidationError

from model.errors import UserError
from pretrain import __version__
from pretrain.checkpoint.tensors import replace_text
from pretrain.engine.agreement import raise_together
from pretrain.launch.slurm import say
from pretrain.recipe import Recipe
from pretrain.recipe.noise import as_recorded, with_noise

PACKAGES = ("torch", "deepspeed", "megatron-core", "numpy", "tokenizers")

# What may change when a run is resumed: where and how it is computed, watched and saved, but not what it learns.
FREE_KEYS = (
    *(("checkpoint",), ("faults",), ("validation",), ("layout",), ("deepspeed",), ("batch", "micro"), ("paper",)),
    *(("compile",), ("data", "corpus"), ("stages", "layout"), ("stages", "deepspeed"), ("stages", "batch", "micro")),
)

LOCK_SECONDS, LOCK_TRIES = 2.0, 20
"""How long and how often a folder is tried that a process holds, before that is a mistake."""


class RunFolder:
    def __init__(self, path: Path):
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.summary = path / "summary.json"
        self.recipe = path / "recipe.yaml"
        self.versions = path / "versions.json"
        self.plot = path / "loss.png"
        self.report = path / "report.html"
        self.lock = path / "lock"
        self.starts = path / "starts.json"
        self.is_training = False
        """Whether this process has begun to train in it. A rollback does not begin again."""
        self.checked_shards = path / "checked-shards.json"
        written_first = (self.lock, self.recipe, self.versions, self.checked_shards)
        self._written_first = {*written_first, *(file.with_name(file.name + ".partial") for file in written_first)}
        """What a run writes before it takes a step."""

    @property
    def has_begun(self) -> bool:
        """Whether there is anything that another recipe could spoil: one that could not start leaves none."""
        return self.path.is_dir() and any(path not in self._written_first for path in self.path.iterdir())

    def completed(self, recipe: Recipe) -> Recipe:
        """The recipe with what it leaves to the run: as the run in the folder was begun, else today's defaults."""
        held = self._held() if self.has_begun and self.recipe.is_file() else None
        return with_noise(recipe, held if isinstance(held, Recipe) else None)

    def check(self, recipe: Recipe) -> None:
        """Raises UserError when the folder holds a run of another recipe, a finished one, or one that is running."""
        if self.has_begun and self.recipe.is_file():
            begun, ours = self._held(), lasting(recipe)
            held = lasting(begun) if isinstance(begun, Recipe) else without(begun, FREE_KEYS)
            different = sorted(key for key in held.keys() | ours.keys() if held.get(key) != ours.get(key))
            if different:
                raise UserError(
                    f"{self.path} holds a run of another recipe (its {', '.join(different)} differ); "
                    "give this run another --name, or move that folder away"
                )
        elif self.has_begun:
            raise UserError(f"{self.path} exists and is not the folder of a run; give this run another --name")
        if self.summary.is_file():
            raise UserError(
                f"the run in {self.path} is finished; give a new run another --name, or move that folder away"
            )
        if self.lock.is_file():
            with self.lock.open() as file:  # shared: all ranks look at the same time
                self._lock(file, fcntl.LOCK_SH)

    def _held(self) -> Recipe | dict[str, Any]:
        """The recipe in the folder, or its values if some key or value of it is gone. Keys that came after it was
        written have their defaults."""
        try:
            values = yaml.safe_load(self.recipe.read_text("utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it is not a mapping")
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as fault:
            reason = " ".join(str(fault).split())[:200]
            raise UserError(
                f"{self.recipe} cannot be read ({reason}); put the recipe there that the run was started with, or give "
                "this run another --name"
            ) from None
        try:
            return as_recorded(Recipe.model_validate(values))
        except ValidationError:
            return values

    @contextmanager
    def opened(self, recipe: Recipe) -> Iterator[None]:
        """Locks the folder for this run and writes its recipe. Collective.

        Raises Stop on all ranks when another run holds it or it cannot be written. The lock is the operating system's
        and ends with the process, however that ends.
        """
        file, error = None, None
        if dist.get_rank() == 0:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                file = self.lock.open("a+")
                self._lock(file, fcntl.LOCK_EX)
                file.truncate(0)
                file.write(f"process {os.getpid()} on {os.uname().nodename}, since {time.strftime('%F %T')}{_job()}")
                file.flush()
                self._create(recipe)
            except OSError as fault:
                error = UserError(f"cannot write to {self.path}: {fault.strerror}; choose another folder by --runs")
            except UserError as fault:
                error = fault
        raise_together(error)
        try:
            yield
        finally:
            if file is not None:
                file.close()

    def _lock(self, file: TextIO, kind: int) -> None:
        """Waits a moment for processes that only look, and for the last rank of a killed run to be gone.

        For an earlier start of the same job it waits as long as it takes: cut off from SLURM, its ranks may live until
        their watchdog ends them.
        """
        tries, told = 0, False
        while True:
            try:
                return fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOCK_SECONDS / LOCK_TRIES)
            tries += 1
            if tries >= LOCK_TRIES:
                file.seek(0)
                holder = file.read()
                if not _of_this_job(holder):
                    raise UserError(
                        f"a run is active in {self.path} ({holder}); wait for it, or give this run another --name"
                    )
                if not told:
                    say(f"an earlier start of this job is still active in {self.path} ({holder}); waiting for its end")
                    told = True

    def _create(self, recipe: Recipe) -> None:
        replace_text(self.recipe, yaml.safe_dump(_as_json(recipe), sort_keys=False))
        replace_text(self.versions, json.dumps(versions(), indent=1) + "\n")


def _job() -> str:
    """How the holder of a lock names the job that it is in."""
    job = os.environ.get("SLURM_JOB_ID")
    return f", job {job}" if job else ""


def _of_this_job(holder: str) -> bool:
    return bool(_job()) and holder.endswith(_job())


def _as_json(recipe: Recipe) -> dict[str, Any]:
    return json.loads(recipe.model_dump_json(by_alias=True))


def lasting(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that a resumed run may not change, as JSON."""
    return without(_as_json(recipe), FREE_KEYS)


def without(values: dict[str, Any], paths: Iterable[Sequence[str]]) -> dict[str, Any]:
    """`values` without the entries at `paths`, in nested mappings and lists of them."""
    kept = deepcopy(values)
    for path in paths:
        _drop(kept, path)
    return kept


def _drop(values: Any, path: Sequence[str]) -> None:
    for holder in values if isinstance(values, list) else [values]:
        if isinstance(holder, dict) and path[0] in holder:
            if len(path) == 1:
                del holder[path[0]]
            else:
                _drop(holder[path[0]], path[1:])


def versions() -> dict[str, Any]:
    return {"espalier": __version__, "python": platform.python_version()} | {
        package: version(package) for package in PACKAGES
    }
