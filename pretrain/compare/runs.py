"""Finished runs, grouped: one recipe under several seeds is a method; the target shape from scratch is the baseline."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from model.errors import UserError
from pretrain.run_folder import RunFolder

COSTS = ("flops", "tokens", "seconds", "device_seconds")
Role = Literal["from scratch", "grown", "small"]


@dataclass(frozen=True)
class FinishedRun:
    """One folder under runs/."""

    path: Path
    name: str
    seed: int
    recipe: dict[str, Any]
    """Without name and seed: what makes two runs the same method at the same budget."""
    shape: str
    """Of the last stage."""
    grows: bool
    valid_loss: float
    valid_accuracy: float
    costs: dict[str, float]
    """By COSTS, of the whole run: training steps and changes of shape, not validation and checkpoints."""
    growth: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> "FinishedRun":
        """Raises UserError where the folder holds no finished run."""
        folder = RunFolder(path)
        if not folder.summary.is_file():
            raise UserError(
                f"{path} holds no finished run (no summary.json); name folders under runs/ that are finished"
            )
        summary = json.loads(folder.summary.read_text("utf-8"))
        recipe = yaml.safe_load(folder.recipe.read_text("utf-8"))
        growing_seconds = sum(event["seconds"] for event in summary["growth"])
        return cls(
            path=path,
            name=recipe["name"],
            seed=recipe.get("seed", 0),
            recipe={key: value for key, value in recipe.items() if key not in ("name", "seed")},
            shape=summary["stages"][-1]["shape"],
            grows=bool(summary["growth"]),
            valid_loss=summary["valid_loss"],
            valid_accuracy=summary["valid_accuracy"],
            costs={
                "flops": summary["flops"],
                "tokens": summary["tokens"],
                "seconds": summary["seconds"] + growing_seconds,
                "device_seconds": summary["device_seconds"] + growing_seconds * summary["ranks"],
            },
            growth=tuple(summary["growth"]),
        )


@dataclass(frozen=True)
class Method:
    """The same recipe under several seeds."""

    name: str
    role: Role
    runs: tuple[FinishedRun, ...]

    @property
    def losses(self) -> list[float]:
        return [run.valid_loss for run in self.runs]


def methods(runs: list[FinishedRun]) -> list[Method]:
    """Groups runs by recipe. The target is the shape that grown runs end in and that some run trains from scratch.

    With no grown runs it is the most costly run's. A grown run may end elsewhere (pruned, say): it is measured against
    the same baseline. Raises UserError when no run trains a shape of the grown ones from scratch, or several do.
    """
    if not runs:
        raise UserError("compare needs runs; name folders under runs/")
    target = _target(runs)
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.recipe, sort_keys=True), []).append(run)

    def role(run: FinishedRun) -> Role:
        if run.grows:
            return "grown"
        return "from scratch" if run.shape == target else "small"

    return [
        Method(group[0].name, role(group[0]), tuple(sorted(group, key=lambda run: run.seed)))
        for group in groups.values()
    ]


def _target(runs: list[FinishedRun]) -> str:
    grown = {run.shape for run in runs if run.grows}
    if not grown:
        return max(runs, key=lambda run: run.costs["flops"]).shape
    targets = sorted(grown & {run.shape for run in runs if not run.grows})
    if not targets:
        raise UserError(
            f"no run trains the target shape ({'; '.join(sorted(grown))}) from scratch; add one, "
            "at several budgets if you can"
        )
    if len(targets) > 1:
        raise UserError(f"the grown runs end in different shapes ({'; '.join(targets)}); compare them one by one")
    return targets[0]
