"""`compare --scale small`: as many runs of the queue as fit into some minutes, over as many starts as it takes."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf, isinf
from pathlib import Path

from rich.console import Console

from model.errors import UserError
from pretrain.compare.ladder import (
    START_SECONDS,
    Model,
    Place,
    Planned,
    comparable,
    places,
    queue,
    target_layers,
    unit_flops,
)
from pretrain.compare.results import Line, Results
from pretrain.compare.run_files import Summary, read_summary
from pretrain.compare.small import RECIPE, Small
from pretrain.compare.training import Entry, RunFailed, train_one
from pretrain.recipe import load_recipe
from pretrain.recipe.precision import precision_in_words
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.settings.tables import WholeTable

OPTIONS = {"changes": "--set", "nproc": "--nproc", "runs": "--runs", "flops_per_second": "--speed"}
"""That hold for all starts."""

Measure = Callable[[str, tuple[str, ...], int], float]
"""FLOP/s of a recipe under overrides, on some ranks of this machine: where the runs are trained, even within a job of
several nodes."""


@dataclass(frozen=True)
class Packed:
    small: Small
    seeds: int
    minutes: float
    """Of all starts together."""
    results: Results
    retries: bool = False
    """Whether runs that failed in earlier starts are trained again."""

    def train(self) -> list[Path]:
        """Trains what fits, the most telling run first. Returns the folders of all runs that can be compared.

        A run that a kill, a signal or the end of the minutes cuts off goes on at the next start. After one that fails,
        other models go on. Raises UserError if nothing has finished, and nothing fits or all has failed.
        """
        self.results.resume()
        while place := next((place for place in self.queue() if place.fits and place.seconds), None):
            self._train(place)
        finished = self.finished()
        failed, unfinished = self._failed, (place for place in self.queue() if 0 < place.seconds < inf)
        for folder in (self._folder(place.run) for place in unfinished):
            if folder.exists():
                print(f"{folder.name} has not finished; give more --minutes to resume it", file=sys.stderr)
        if failed:
            names = ", ".join(sorted(failed))
            print(
                f"failed: {names}; add --retry-failed to train them, and others of their models, again", file=sys.stderr
            )
        if not finished:
            if failed:
                raise UserError("no run has finished, and some have failed: what they said is above, or in their logs")
            least = min(place.seconds for place in self.queue()) / 60
            raise UserError(
                f"--minutes {self.minutes:g}: no run fits, for the shortest takes {least:.1f} at {self._speed}; give "
                "more minutes"
            )
        compared = comparable(finished, self.seeds, self._target(finished).layers)
        waiting = [self._folder(run).name for run in finished if run not in compared]
        print(f"{len(finished)} runs have finished: {self.results.file}", file=sys.stderr)
        if waiting:
            print(f"left out of the comparison until there are more seeds: {', '.join(waiting)}", file=sys.stderr)
        return [self._folder(run) for run in compared]

    def print_queue(self) -> None:
        """What would be trained, and which of it fits."""
        console, found = Console(), self.queue()
        if not console.is_terminal:
            console.width = 140
        table = WholeTable(title="the most telling run first")
        for heading in ("run", "purpose", "FLOPs", "minutes", "fits"):
            table.add_column(heading)
        for place in found:
            minutes, flops = f"{place.seconds / 60:.1f}", f"{self._flops(place.run):.3g}"
            name = self._folder(place.run).name
            word = ("yes" if place.fits else "no") if place.seconds else "finished"
            if isinf(place.seconds):
                minutes, word = "", "failed" if name in self._failed else "model failed"
            table.add_row(name, place.run.purpose, flops, minutes, word)
        console.print(table)
        fitting, spent = sum(place.fits for place in found), self.results.spent_seconds / 60
        print(
            f"{fitting} of {len(found)} runs fit into {self.minutes:g} minutes, {spent:.1f} of which are spent, at "
            f"{self._speed} where no finished run tells it"
        )
        print(self._precision_in_words())
        target = self._target(self.finished()).name
        print(f"the target, of two layers or more, is the size that ends lowest in the ladder: {target}, for now")

    @property
    def baseline(self) -> list[str]:
        """What the others are measured against: the target from scratch, once there is any."""
        finished = self.finished()
        target = self._target(finished)
        return [target.name] if any(run.model == target for run in finished) else []

    def finished(self) -> dict[Planned, Summary]:
        found: dict[Planned, Summary] = {}
        begun = self.results.begun
        for _ in range(2):  # those of the ladder decide what the others are
            for run in queue(_losses(found), self.seeds, self._failed_models):
                folder = self._folder(run)
                if folder.name in begun and RunFolder(folder).summary.is_file():
                    found[run] = read_summary(RunFolder(folder).summary)
        return found

    def queue(self) -> list[Place]:
        """All runs, with the time that those will take that have not finished."""
        finished = self.finished()
        speeds = {run.model: summary.flops / summary.seconds for run, summary in finished.items()}
        left = 60 * self.minutes - self.results.spent_seconds
        failed = self._failed_models

        def seconds(run: Planned) -> float:
            if run in finished:
                return 0.0
            return inf if run.model in failed else self._seconds(run, speeds)

        return places(queue(_losses(finished), self.seeds, failed), seconds, left)

    def _target(self, finished: Mapping[Planned, Summary]) -> Model:
        return Model(target_layers(_losses(finished), self._failed_models))

    @property
    def _failed(self) -> set[str]:
        """Names of runs that are not trained again."""
        return {line["run"] for line in self.results.failed(in_this_start=self.retries)}

    @property
    def _failed_models(self) -> set[Model]:
        """Of which a run has failed: the others would do the same."""
        return {Model(line["layers"], line["is_grown"]) for line in self.results.failed(in_this_start=self.retries)}

    def _seconds(self, run: Planned, speeds: Mapping[Model, float]) -> float:
        """A size that has not been trained yet is taken to be as slow as the slowest that is known."""
        speed = speeds.get(run.model) or min([self.results.decided["flops_per_second"], *speeds.values()])
        return START_SECONDS + max(0.0, self._flops(run) - _flops_so_far(self._folder(run))) / speed

    def _train(self, place: Place) -> None:
        run, folder = place.run, self._folder(place.run)
        if folder.exists() and folder.name not in self.results.begun:
            raise UserError(
                f"{folder} is a run that {self.results.file} does not know; give another folder by --runs, or "
                "move that one away"
            )
        left = 60 * self.minutes - self.results.spent_seconds
        print(
            f"{folder.name}: {run.purpose}, {self._flops(run):.3g} FLOPs{self._in_precision}, about "
            f"{place.seconds / 60:.1f} of the {left / 60:.1f} minutes that are left",
            file=sys.stderr,
        )
        overrides = (*self.small.overrides, *self._precision)
        of_run = {"purpose": run.purpose, "seed": run.seed, "layers": run.model.layers, "is_grown": run.model.is_grown}
        with self.results.timed(folder.name) as line:
            try:
                has_finished = train_one(self._entry(run), run.seed, overrides, left, folder.parent, self.small.nproc)
            except RunFailed as fault:
                line |= of_run | {"failed": str(fault)}
                print(f"{fault}; other models go on", file=sys.stderr)
                return
            if has_finished:
                summary = read_summary(RunFolder(folder).summary)
                line |= of_run | {"flops": summary.flops, "valid_loss": summary.valid_loss}

    def _entry(self, run: Planned) -> Entry:
        return self.small.entry(run.model, max(1, round(self._flops(run) / self.small.step_flops[run.model])))

    def _folder(self, run: Planned) -> Path:
        return self.results.runs / self._entry(run).run(run.seed)

    def _flops(self, run: Planned) -> float:
        return run.budget * self.results.decided["unit_flops"]

    @property
    def _precision(self) -> list[str]:
        """That all runs have, on whatever machine they are trained. Older results do not say."""
        decided = self.results.decided.get("precision")
        return [f"precision={decided}"] if decided else []

    @property
    def _in_precision(self) -> str:
        decided = self.results.decided.get("precision")
        return f" in {decided}" if decided else ""

    def _precision_in_words(self) -> str:
        """Where this machine chose it, or would choose another."""
        asked, chosen = (load_recipe(RECIPE, (*self.small.overrides, *more)) for more in ([], self._precision))
        return precision_in_words(asked, chosen) or f"precision {chosen.precision}"

    @property
    def _speed(self) -> str:
        return f"{self.results.decided['flops_per_second']:.3g} FLOP/s"


def open_results(
    small: Small, seeds: int, minutes: float, speed: float | None, file: Path, runs: Path, measure: Measure | None
) -> Results:
    """The results in `file`. Before the first run, decides what one of the ladder costs: that stands from then on.

    `speed`: FLOP/s; None measures them. `measure` None starts and writes nothing.
    Raises UserError for settings that do not go together, and for others than those that the file was begun with.
    """
    if not minutes > 0:
        raise UserError(f"--minutes {minutes:g} is no time; give more than 0, for example 30")
    if speed is not None and not speed > 0:
        raise UserError(f"--speed {speed:g} is no speed; give FLOP/s, for example 1e12")
    results = Results(file, runs, writes=measure is not None)
    settings = {"changes": list(small.changes), "nproc": small.nproc, "runs": str(runs.resolve())}
    if results.begun:
        given = settings if speed is None else settings | {"flops_per_second": speed}
        different = [key for key in given if results.decided.get(key) != given[key]]
        if different:
            option, began = OPTIONS[different[0]], results.decided.get(different[0])
            raise UserError(f"{file} was begun with {option} {began}; give the same, or another --output and --runs")
        return results
    small.check()
    least, start = small.least_flops, time.monotonic()
    if speed is None:
        if measure is None:
            raise UserError("--dry-run starts nothing that could measure the speed; add --speed, for example 1e12")
        print("measuring one layer for some steps, since no --speed is given", file=sys.stderr)
        speed = measure(RECIPE, (*small.overrides, f"precision={small.precision}", "model.layers=1"), small.nproc)
    decided: Line = {"unit_flops": unit_flops(60 * minutes, speed, least, seeds), "flops_per_second": speed, **settings}
    decided["precision"] = small.precision
    if measure:
        results.append(decided | {"seconds": round(time.monotonic() - start, 1)})
    else:
        results.lines.append(decided)
    return results


def _losses(finished: Mapping[Planned, Summary]) -> dict[Planned, float]:
    return {run: summary.valid_loss for run, summary in finished.items()}


def _flops_so_far(folder: Path) -> float:
    """Of a run that was cut off."""
    with suppress(UserError):
        steps = History.read(folder).steps
        return float(steps[-1]["flops"]) if steps else 0.0
    return 0.0
