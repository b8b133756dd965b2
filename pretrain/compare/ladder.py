"""What `compare --scale small` trains, the most telling run first. No torch.

A ladder of sizes from scratch, then the target against half of it, one late hop to it at the same FLOPs, more seeds of
what is close, and larger budgets. What has ended decides what comes next, by rules that are fixed before the first
run: the target is the size that ends lowest in the ladder, and has two layers at least, so that one can grow into it.
Of a model that failed in one run, the others wait.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

LAYERS = (1, 2, 4, 8)
CLOSE_NATS = 0.05
"""A run that ends further above the best one of its budget needs no other seed: the seeds of a size are 0.01 to 0.03
apart (docs/results)."""
START_SECONDS = 20.0
"""Of a run that are not steps: imports, the engine, the validations at both ends."""
SPARE = 0.05
"""Of the minutes, for what estimates miss."""
LARGER_BUDGETS = (4, 8)
LARGER = "larger budget"


@dataclass(frozen=True)
class Model:
    """A size from scratch, or one that is grown to in a late hop from one layer."""

    layers: int
    is_grown: bool = False

    @property
    def name(self) -> str:
        return f"small-hop-{self.layers}" if self.is_grown else f"small-{self.layers}"


@dataclass(frozen=True)
class Planned:
    model: Model
    budget: int
    """FLOPs, in units of those that a run of the ladder takes."""
    seed: int = 0
    purpose: str = field(default="", compare=False)


@dataclass(frozen=True)
class Place:
    """A run in the queue."""

    run: Planned
    seconds: float
    """It will still take; 0 where it has finished, infinite where it waits for one that has failed."""
    fits: bool


def queue(losses: Mapping[Planned, float], num_seeds: int, failed: Collection[Model] = ()) -> list[Planned]:
    """Every run once, by value. `losses`: validation losses of those that have finished, in nats. `failed`: models of
    which a run has failed."""
    layers = target_layers(losses, failed)
    target, half, hop = trio = Model(layers), Model(layers // 2), Model(layers, is_grown=True)
    double = [Model(2 * layers)] if 2 * layers in LAYERS else []
    ladder = [Planned(Model(size), 1, 0, "ladder") for size in LAYERS]
    purposes = {target: "target", half: "half of the target", hop: "one late hop to it"}
    first = [Planned(model, 2, 0, purpose) for model, purpose in purposes.items()]
    others = range(1, num_seeds)
    seeds = [Planned(model, 2, seed, "another seed") for seed in others for model in trio]
    seeds += [Planned(model, 1, seed, "another seed") for seed in others for model in (target, half)]
    larger = [
        Planned(model, budget, seed, LARGER)
        for budget in LARGER_BUDGETS
        for seed in range(num_seeds)
        for model in (*trio, *(double if seed == 0 else ()))
    ]
    return sorted([*ladder, *first, *seeds, *larger], key=lambda run: run.seed > 0 and _is_far(run, losses))


def target_layers(losses: Mapping[Planned, float], failed: Collection[Model] = ()) -> int:
    """Two until the ladder has ended. A size that failed there is none that could be the target."""
    ended = {size: losses[run] for size in LAYERS if (run := Planned(Model(size), 1)) in losses}
    is_over = all(size in ended or Model(size) in failed for size in LAYERS)
    return max(min(ended, key=ended.__getitem__), LAYERS[1]) if ended and is_over else LAYERS[1]


def unit_flops(seconds: float, flops_per_second: float, least: float, num_seeds: int) -> float:
    """FLOPs of a run of the ladder: as many as leave time for all runs before the larger budgets, but `least`."""
    runs = [run for run in queue({}, num_seeds) if run.purpose != LARGER]
    training = (1 - SPARE) * seconds - len(runs) * START_SECONDS
    return max(least, training * flops_per_second / sum(run.budget for run in runs))


def places(runs: Iterable[Planned], seconds_of: Callable[[Planned], float], left: float) -> list[Place]:
    """Which of the runs fit into the seconds that are left. One that does not leaves them to those after it."""
    found = []
    for run in runs:
        seconds = seconds_of(run)
        fits = seconds <= left
        left -= seconds if fits else 0
        found.append(Place(run, seconds, fits))
    return found


def comparable(finished: Collection[Planned], num_seeds: int, layers: int) -> list[Planned]:
    """The finished runs, without larger budgets at which the target (`layers` deep) or half of it has only one seed.

    A budget of the baseline with a single seed leaves nothing significant at the others, either.
    """

    def has_seeds(budget: int) -> bool:
        models = [run.model for run in finished if run.budget == budget]
        return all(models.count(Model(size)) >= min(2, num_seeds) for size in (layers, layers // 2))

    return [run for run in finished if run.budget not in LARGER_BUDGETS or has_seeds(run.budget)]


def _is_far(run: Planned, losses: Mapping[Planned, float]) -> bool:
    """Whether the first seed of the same model and budget has ended far above the best one."""
    first = {other.model: loss for other, loss in losses.items() if (other.budget, other.seed) == (run.budget, 0)}
    return first.get(run.model, -math.inf) > min(first.values(), default=math.inf) + CLOSE_NATS
