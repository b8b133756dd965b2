"""Results of fine-tuning: median and spread over the seeds, as a table and as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from pretrain.finetune.tasks import Settings

Scores = dict[str, float]
"""Scores of one seed, by metric."""


@dataclass(frozen=True)
class Result:
    """Results of one combination of settings."""

    settings: Settings
    scores: tuple[Scores | None, ...]
    """One entry per seed; None if the seed diverged, that is, the model's outputs were not finite."""
    seconds: float
    scored_on: str

    def values(self, metric: str) -> list[float]:
        return [scores[metric] for scores in self.scores if scores]

    @property
    def metrics(self) -> list[str]:
        return list(next(filter(None, self.scores), {}))

    @property
    def num_diverged(self) -> int:
        return self.scores.count(None)

    @property
    def score(self) -> float:
        """Criterion for the best settings: the median of each metric, averaged over the metrics as GLUE does.

        Settings that made a seed diverge rank below all others."""
        return -math.inf if self.num_diverged else fmean(median(self.values(metric)) for metric in self.metrics)

    def to_json(self) -> dict[str, Any]:
        spread = {
            metric: {"median": median(values), "low": min(values), "high": max(values)}
            for metric in self.metrics
            for values in [self.values(metric)]
        }
        return {"settings": asdict(self.settings), **spread, "seeds": self.scores, "seconds": self.seconds}

    def _range(self, values: Sequence[float]) -> str:
        """Nothing where one seed was trained."""
        return f" ({min(values):.4g} to {max(values):.4g})" if len(self.scores) > 1 else ""

    def __str__(self) -> str:
        spreads = [
            f"{metric} {median(values):.4g}" + self._range(values)
            for metric in self.metrics
            for values in [self.values(metric)]
        ]
        diverged = [f"{self.num_diverged} of {len(self.scores)} seeds diverged"] if self.num_diverged else []
        return f"{self.settings}: {', '.join(spreads + diverged)}"


def table(results: Sequence[Result]) -> str:
    """Median (lowest to highest) of every metric, one line per combination of settings, the best one marked."""
    best = max(results, key=lambda result: result.score)
    is_choice = len(results) > 1 and not best.num_diverged
    marks = ["  <- best" if is_choice and result is best else "" for result in results]
    lines = [f"{result}{mark}" for result, mark in zip(results, marks, strict=True)]
    several = len(best.scores) > 1
    what = f"median (lowest to highest) of {len(best.scores)} seeds" if several else "scores of one seed"
    return "\n".join([*lines, f"{what} on {best.scored_on}"])


def write_results(path: Path, about: dict[str, Any], results: Sequence[Result]) -> None:
    """Writes all results as JSON, the best settings first; `about`: what was fine-tuned, and on what."""
    ordered = sorted(results, key=lambda result: -result.score)
    written = {**about, "scored_on": ordered[0].scored_on, "results": [result.to_json() for result in ordered]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, indent=1, allow_nan=False) + "\n", "utf-8")
