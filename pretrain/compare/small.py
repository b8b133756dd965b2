"""The recipes of `compare --scale small`: `mini` with another width, 1 to 8 layers, and late hops to them. No torch."""

from dataclasses import dataclass
from functools import cached_property

from model.errors import UserError
from pretrain.compare.ladder import LAYERS, Model
from pretrain.compare.training import Entry, check_comparable
from pretrain.data import Corpus
from pretrain.recipe import load_recipe, resolve
from pretrain.recipe.precision import with_precision
from pretrain.runs.forecast import run_flops

RECIPE, HOP = "mini", "one-layer-mini"
SETTINGS = ("model.hidden=64", "model.ffn=256", "batch.global=64", "checkpoint.minutes=1")
"""A width at which two layers beat one from 2e13 FLOPs on (docs/results/compare.md); four times the rows, for which a
GPU hardly needs longer; checkpoints from which a run that is killed loses little."""
OWN = ("name", "seed", "steps", "hours", "model.layers")
"""Keys that each run has its own value for."""
MODELS = [*map(Model, LAYERS), *(Model(layers, is_grown=True) for layers in LAYERS[1:])]
LEAST_STEPS, LEAST_WARMUPS = 100, 2
"""Fewer steps, or fewer times the steps of warmup, tell nothing of a size."""


@dataclass(frozen=True)
class Small:
    changes: tuple[str, ...]
    """Those that a user makes with --set."""
    nproc: int

    def __post_init__(self) -> None:
        """Raises UserError for a change of what each run has for itself."""
        for change in self.changes:
            if change.partition("=")[0] in OWN:
                raise UserError(f"--set {change}: --scale small sets {', '.join(OWN)} for each run; leave it out")

    @property
    def overrides(self) -> tuple[str, ...]:
        """Those that all runs share."""
        return (*SETTINGS, *self.changes)

    @property
    def precision(self) -> str:
        """That of all runs; with `auto`, what this machine computes in."""
        return with_precision(load_recipe(RECIPE, self.overrides)).precision

    def entry(self, model: Model, steps: int | None = None) -> Entry:
        """`steps` None: those of the recipe."""
        recipe = HOP if model.is_grown else RECIPE
        return Entry(recipe, str(steps or ""), model.name, (f"model.layers={model.layers}",))

    def check(self) -> None:
        """Raises UserError for what could not be trained, or compared afterwards."""
        check_comparable([self.entry(model) for model in MODELS], self.overrides, self.nproc)

    @cached_property
    def step_flops(self) -> dict[Model, float]:
        """Of a step, in the mean over a run. Raises UserError if there is no corpus."""
        vocab_size = Corpus.open(load_recipe(RECIPE, self.overrides).data.corpus).vocab_size
        found = {}
        for model in MODELS:
            entry = self.entry(model)
            run = resolve(load_recipe(entry.recipe, (*self.overrides, *entry.overrides)), vocab_size, self.nproc)
            found[model] = run_flops(run) / run.end
        return found

    @property
    def least_flops(self) -> float:
        """Of a run that tells something, whatever its size."""
        warmup = load_recipe(RECIPE, self.overrides).schedule.warmup
        steps = max(LEAST_STEPS, LEAST_WARMUPS * warmup) if isinstance(warmup, int) else LEAST_STEPS
        return steps * max(self.step_flops.values())
