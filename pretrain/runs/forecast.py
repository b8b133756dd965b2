"""How often a run will read its corpus and how long it will take, as far as that is known before. No torch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError
from pretrain.cost.savings import extra_flops, stage_flops
from pretrain.data import Corpus
from pretrain.recipe import Run
from pretrain.recipe.pilots import pilot_steps
from pretrain.runs.history import History

LEAST_STEPS = 20
"""A shorter run says nothing of the speed: its first steps are slow."""
LAST_STEPS = 500
MANY_EPOCHS = 40
"""BERT read its text about as often (Devlin et al. 2018)."""


@dataclass(frozen=True)
class Speed:
    """What a run reached, on this machine if it was trained here."""

    flops_per_second: float
    run: Path


def known_speed(runs: Path, name: str) -> Speed | None:
    """That of the run of this name, else of the newest one in the folder; None if none has taken enough steps."""
    folders = sorted(runs.glob("*/metrics.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True)
    for folder in sorted((file.parent for file in folders), key=lambda folder: folder.name != name):
        try:
            steps = History.read(folder).steps[-LAST_STEPS:]
        except UserError:
            continue
        seconds = steps[-1]["seconds"] - steps[0]["seconds"] if len(steps) >= LEAST_STEPS else 0
        if seconds > 0:
            return Speed((steps[-1]["flops"] - steps[0]["flops"]) / seconds, folder)
    return None


def forecast_lines(run: Run, corpus: Corpus | None, speed: Speed | None) -> Iterator[str]:
    """Tokens and epochs where `corpus` is prepared, hours where `speed` is known; else what is missing."""
    num_steps = steps_of(run, speed.flops_per_second if speed else None)
    at_rate = f" at the speed of {speed.run} ({speed.flops_per_second:.3g} FLOP/s)" if speed else ""
    if corpus:
        yield _reading(run, corpus, num_steps, at_rate if run.unit == "seconds" else "")
    if not speed:
        unknown = "how long it takes" if run.unit == "steps" else "how much it reads"
        text, hours = run.recipe.data.corpus if corpus else "TEXT", run.recipe.hours or 1
        ways = "train for some minutes, stop with Ctrl-C, and plan again; or measure it by "
        ways += f"./launch.sh plan --suggest {text} --hours {hours:g}"
        yield f"{unknown} is not known here yet: {ways}"
    elif run.unit == "steps":
        length = in_words(run_flops(run) / speed.flops_per_second)
        yield f"about {length} of training{at_rate}; another shape or number of processes changes it"


def steps_of(run: Run, flops_per_second: float | None) -> dict[int, float]:
    """Of each stage; empty where that depends on a speed that is not known."""
    if run.unit == "steps":
        return {stage.index: stage.length for stage in run.stages}
    if flops_per_second is None:
        return {}
    per_step = {stage.index: stage_flops(stage) for stage in run.stages}
    return {stage.index: stage.length * flops_per_second / per_step[stage.index] for stage in run.stages}


def run_flops(run: Run) -> float:
    """Of a run of steps, with its pilots and what its operators learn."""
    return sum(stage.length * stage_flops(stage) for stage in run.stages) + extra_flops(run)


def tokens_read(run: Run, num_steps: dict[int, float]) -> float:
    """With those of pilots, and those from which operators learn."""
    of_pilots = pilot_steps(run)
    return sum(
        (num_steps[stage.index] + of_pilots.get(stage.index, 0) + stage.learning_steps)
        * stage.global_batch
        * stage.sequence
        for stage in run.stages
    )


def _reading(run: Run, corpus: Corpus, num_steps: dict[int, float], at_rate: str) -> str:
    parts = zip(corpus.weights.values(), corpus.manifests, strict=True)
    num_tokens = sum(weight * manifest["splits"]["train"]["num_tokens"] for weight, manifest in parts)
    text = f"corpus {corpus.path}: {short(num_tokens)} tokens to train on"
    if not num_steps:
        return text
    read = tokens_read(run, num_steps)
    epochs = read / num_tokens
    text += f"; the run reads at most {short(read)}, {plain(epochs)} epochs" + at_rate
    if epochs > MANY_EPOCHS:
        unit = "steps" if run.unit == "steps" else "hours"
        text += f". That is much for this text: watch the validation loss, or set fewer {unit}"
    return text


def short(count: float) -> str:
    """967,898 -> 968 k."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {letter}"
    return f"{count:.0f}"


def in_words(seconds: float) -> str:
    if seconds < 5400:
        return f"{math.ceil(seconds / 60)} minutes"
    return f"{plain(seconds / 3600)} hours" if seconds < 3600 * 100 else f"{plain(seconds / 86400)} days"


def plain(value: float) -> str:
    """Two digits, and no exponent: 0.12, 3.4, 150, 12,000."""
    return f"{float(f'{value:.2g}'):,.10g}"
