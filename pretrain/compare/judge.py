"""The verdict on one contender: its speedup in each currency, and whether it is significant."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from pretrain.compare.roles import Contender, sizes_from_scratch
from pretrain.compare.runs import COSTS
from pretrain.compare.speedup import Paired, Speedup, speedup


@dataclass(frozen=True)
class Line:
    """One contender, judged."""

    contender: Contender
    speedups: dict[str, Speedup]
    """By currency, over the full model from scratch; empty for the baseline itself."""
    over_best: Speedup | None
    """In FLOPs, over the best of the full model and the small models from scratch. Methods only."""
    is_size: bool
    """Trained as the baseline is, at whatever size."""
    over_envelope: Speedup
    """In FLOPs, over the best of all such sizes. At most 1 for one of them."""

    def to_json(self, scale: str) -> dict[str, Any]:
        flops, wall = self.speedups["flops"], self.speedups["seconds"]
        return {
            "method": self.contender.name,
            "role": self.contender.role,
            "scale": scale,
            "flop_speedup": flops.reading.factor,
            "bound": flops.reading.bound,
            "wall_speedup": wall.reading.factor,
            "device_speedup": self.speedups["device_seconds"].reading.factor,
            "flop_speedup_over_best": self.over_best.reading.factor if self.over_best else None,
            "bound_over_best": self.over_best.reading.bound if self.over_best else None,
            "significant_over_best": self.over_best.verdict == "significant" if self.over_best else None,
            "flops": median(run.costs["flops"] for run in self.contender.runs),
            "flop_speedup_over_envelope": self.over_envelope.reading.factor,
            "bound_over_envelope": self.over_envelope.reading.bound,
            "low": flops.low,
            "high": flops.high,
            "significant": flops.verdict == "significant",
            "paired": _paired_to_json(flops.paired),
            "seeds": len(self.contender.runs),
            "valid_loss": median(self.contender.losses),
        }


def judge(contender: Contender, found: Sequence[Contender]) -> Line:
    full = [other for other in found if other.role == "from scratch"]
    plain = [other for other in found if other.role != "method"]
    sizes = sizes_from_scratch(found)
    return Line(
        contender,
        {} if contender in full else {cost: speedup(contender, full, cost) for cost in COSTS},
        over_best(contender, plain) if contender.role == "method" else None,
        contender in sizes,
        over_best(contender, sizes),
    )


def over_best(method: Contender, plain: Sequence[Contender]) -> Speedup:
    """In FLOPs, over whichever plain model gives the smallest speedup. Each shape has its own curve.

    A model that never reached the method's loss (`>=`) offers no cheaper run, so it counts only if no model reached it.
    A model whose cheapest run is already better (`<=`) may reach the loss for less still: the smallest speedup is then
    a bound, too.
    """
    shapes = sorted({contender.runs[0].shape for contender in plain})
    curves = ([contender for contender in plain if contender.runs[0].shape == shape] for shape in shapes)
    every = [speedup(method, curve, "flops") for curve in curves]
    reached = [found for found in every if found.reading.bound != ">="]
    least = min(reached or every, key=lambda found: found.reading.factor)
    if any(found.reading.bound == "<=" for found in reached):
        return replace(least, reading=replace(least.reading, bound="<="))
    return least


def _paired_to_json(paired: Paired) -> dict[str, Any] | None:
    """FLOP speedups, one for each of `seeds`."""
    if not paired.readings:
        return None
    return {
        "seeds": list(paired.readings),
        "values": paired.factors,
        "bounds": [reading.bound for reading in paired.readings.values()],
        "median": median(paired.factors),
        "low": min(paired.factors),
        "high": max(paired.factors),
        "significant": paired.significant,
    }
