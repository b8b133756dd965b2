"""The folder of one run: its recipe, versions, metrics, checkpoints and summary."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from model.errors import UserError
from pretrain import __version__
from pretrain.recipe import Recipe

PACKAGES = ("torch", "deepspeed", "megatron-core", "numpy", "tokenizers")


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

    def check(self, recipe: Recipe) -> None:
        """Raises UserError when the folder holds a run of another recipe, or a finished one."""
        if self.recipe.is_file():
            held = yaml.safe_load(self.recipe.read_text("utf-8"))
            ours = json.loads(recipe.model_dump_json(by_alias=True))
            different = sorted(key for key in held.keys() | ours.keys() if held.get(key) != ours.get(key))
            if different:
                raise UserError(
                    f"{self.path} holds a run of another recipe (its {', '.join(different)} differ); "
                    "give this run another --name, or move that folder away"
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"{self.path} exists and is no run's folder; give this run another --name")
        if self.summary.is_file():
            raise UserError(
                f"the run in {self.path} is finished; give a new run another --name, or move that folder away"
            )

    def create(self, recipe: Recipe) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(
            yaml.safe_dump(json.loads(recipe.model_dump_json(by_alias=True)), sort_keys=False), "utf-8"
        )
        self.versions.write_text(json.dumps(versions(), indent=1) + "\n", "utf-8")


def versions() -> dict[str, Any]:
    return {"espalier": __version__, "python": platform.python_version()} | {
        package: version(package) for package in PACKAGES
    }
