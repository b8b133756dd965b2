"""The folder of one run: its recipe, versions, metrics, checkpoints and summary."""

import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from model.errors import UserError
from model.lazy import dist
from pretrain import __version__
from pretrain.checkpoint.tensors import replace_text
from pretrain.engine.agreement import from_rank_0, rank_0_first
from pretrain.launch.tolerance import REGROUP_FILE
from pretrain.lease import LEASES, Start, hold, wait_until_free, whole_name
from pretrain.recipe import Recipe
from pretrain.recipe.noise import as_recorded, with_noise
from pretrain.recipe.precision import with_precision
from pretrain.settings.plugins import sources

PACKAGES = ("torch", "deepspeed", "megatron-core", "numpy", "tokenizers")

# What may change when a run is resumed: where and how it is computed, watched and saved, but not what it learns.
FREE_KEYS = (
    *(("checkpoint",), ("faults",), ("validation",), ("layout",), ("deepspeed",), ("batch", "micro"), ("paper",)),
    *(("compile",), ("attention_kernel",), ("data", "corpus")),
    *(("stages", "layout"), ("stages", "deepspeed"), ("stages", "batch", "micro")),
    *(("plugins",), ("trackers",)),  # plugins may have moved
)


class RunFolder:
    def __init__(self, path: Path):
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.summary = path / "summary.json"
        self.recipe = path / "recipe.yaml"
        self.versions = path / "versions.json"
        self.plugins = path / "plugins"
        """The code of the plugins that the recipe names, as it was at the first start."""
        self.logs = path / "logs"
        self.plot = path / "loss.png"
        self.report = path / "report.html"
        self.leases = path / LEASES
        self.start = Start()
        """Of this process, once it has opened the folder to train in it."""
        self.starts = path / "starts.json"
        self.is_training = False
        """Whether this process has begun to train in it. A rollback does not begin again."""
        self.regroup = path / REGROUP_FILE
        self.checked_shards = path / "checked-shards.json"
        self.pilots = path / "pilots"
        """The folders of runs before this one (`until: mixing`)."""
        self._written_first = {
            *(file.name for file in (self.leases, self.recipe, self.versions, self.checked_shards, self.regroup)),
            *(self.plugins.name, self.logs.name, self.pilots.name),
            "lock",  # of earlier versions
        }
        """What a run writes before it takes a step."""

    @property
    def has_begun(self) -> bool:
        """Whether there is anything that another recipe could spoil: one that could not start leaves none."""
        names = {whole_name(path) for path in self.path.iterdir()} if self.path.is_dir() else set()
        of_pilots = self.pilots.iterdir() if self.pilots.is_dir() else ()
        return not names <= self._written_first or any(RunFolder(path).has_begun for path in of_pilots)

    def completed(self, recipe: Recipe) -> Recipe:
        """The recipe with what it leaves to the run: as the run in the folder was begun, else today's defaults."""
        begun = self._held() if self.has_begun and self.recipe.is_file() else None
        held = begun if isinstance(begun, Recipe) else None
        return with_precision(with_noise(recipe, held), held)

    def check(self, recipe: Recipe) -> None:
        """Raises UserError when the folder holds a run of another recipe, or a finished one."""
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

    def wait_until_free(self) -> None:
        """Waits for an earlier start of the same job, or a dead one. Raises UserError when another job trains here."""
        wait_until_free(self.leases)

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
        """Claims the folder for this start of the run and writes its recipe. Collective.

        Waits for an earlier start, for as long as that takes. Raises Stop on all ranks when another job holds the
        folder or it cannot be written.
        """
        rank_0_first(lambda: self._claim(recipe))
        number = from_rank_0(self.start.number)
        if dist.get_rank() > 0:
            self.start = Start(self.leases, number)
        try:
            yield
        finally:
            self.start.end()

    def _claim(self, recipe: Recipe) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.start = hold(self.leases)
            self.start.take_over([self.path, self.checkpoints])
            self.check(recipe)  # again: while this start waited, an earlier one may have come to its end
            self._create(recipe)
        except OSError as fault:
            self.start.end()
            raise UserError(f"cannot write to {self.path}: {fault.strerror}; choose another folder by --runs") from None
        except UserError:
            self.start.end()
            raise

    def _create(self, recipe: Recipe) -> None:
        replace_text(self.recipe, yaml.safe_dump(_as_json(recipe), sort_keys=False), self.start)
        replace_text(self.versions, json.dumps(versions(), indent=1) + "\n", self.start)
        for name in recipe.plugins:
            for file, text in sources(name).items():
                self._keep(self.plugins / file, text)

    def _keep(self, file: Path, text: str) -> None:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, text, self.start)
        elif file.read_text("utf-8") != text:
            print(f"espalier: the plugin {file.name} has changed since the run began; {file} is how it was")


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


@cache
def versions() -> dict[str, Any]:
    """Of a process, which keeps them: to read them takes longer than to save a small state."""
    return {"espalier": __version__, "python": platform.python_version()} | {
        package: version(package) for package in PACKAGES
    }
