"""This machine: calibrated on products, passes and one tiny model, predicting steps of other sizes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import yaml

from pretrain.cost.time.machine import Machine, load_machine
from pretrain.cost.time.run import run_time
from pretrain.cost.time.step import step_time
from pretrain.data import Corpus
from pretrain.launch.local import run_here
from pretrain.profile.calibrate.verb import calibrate
from pretrain.profile.synthetic import synthetic_recipe
from pretrain.profile.verb import Profile
from pretrain.recipe import load_recipe, resolve

SIZES = {
    "4 layers of 256": ("model.hidden=256", "model.heads=4", "model.ffn=1024", "model.layers=4", "batch.global=16"),
    "3 layers of 640": ("model.hidden=640", "model.heads=10", "model.ffn=2560", "model.layers=3", "batch.global=8"),
}
LAYOUTS = (
    *((1, f"ZeRO {zero}", (f"deepspeed=ds_configs/zero{zero}.json",)) for zero in (0, 1)),
    *((2, f"ZeRO {zero}", (f"deepspeed=ds_configs/zero{zero}.json",)) for zero in range(4)),
    (2, "TP 2", ("deepspeed=ds_configs/zero0.json", "layout.tensor_parallel=2")),
)
GROWN = "growth from 2 to 4 layers"


@dataclass(frozen=True)
class Cell:
    """One line of the table. Seconds, of each round: predicted by the calibration at its beginning, and measured."""

    name: str
    predictions: list[float]
    rounds: list[float]

    @property
    def predicted(self) -> float:
        return median(self.predictions)

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def error(self) -> float:
        return self.predicted / self.best - 1


def spread(seconds: list[float]) -> float:
    return max(seconds) / min(seconds) - 1


def cells(folder: Path, num_rounds: int, steps: int) -> tuple[Machine, list[Cell]]:
    """Calibrates, then every size in every layout, in turn; the best round of each counts."""
    recipe = str(synthetic_recipe(folder))
    profile = Profile(recipe, (), stage=0, nproc=1, steps=steps, out=folder, profiled=0)
    found: dict[str, list[float]] = {}
    predicted: dict[str, list[float]] = {}
    for number in range(num_rounds):
        machine = load_machine(str(calibrate(str(folder / f"here-{number}.yaml"), 2)))
        for size, shape in SIZES.items():
            for ranks, layout, overrides in LAYOUTS:
                given = (*shape, *overrides, "precision=fp32")
                name = f"{size}, {ranks} process{'es' * (ranks > 1)}, {layout}"
                run = profile.resolved(given, ranks)
                seconds = step_time(run, run.stages[0], machine).seconds
                took = profile.run("cell", given, ranks).seconds
                predicted.setdefault(name, []).append(seconds)
                found.setdefault(name, []).append(took)
                print(f"{name}: {seconds:.3f} s predicted, {took:.3f} s", flush=True)
        for name, seconds, took in grown(folder / f"round-{number}", recipe, machine, steps):
            predicted.setdefault(name, []).append(seconds)
            found.setdefault(name, []).append(took)
    return machine, [Cell(name, predicted[name], rounds) for name, rounds in found.items()]


def grown(folder: Path, recipe: str, machine: Machine, steps: int) -> Sequence[tuple[str, float, float]]:
    """A run that doubles its layers half-way, on two processes: the steps before and after, predicted and measured."""
    values = yaml.safe_load(Path(recipe).read_text("utf-8")) | {"name": "grown", "precision": "fp32"}
    values["model"] |= {"hidden": 256, "heads": 4, "ffn": 1024, "layers": 4}
    values |= {"batch": {"global": 16}, "deepspeed": "ds_configs/zero1.json", "checkpoint": {"minutes": 0}}
    values["stages"] = [
        {"name": "shallow", "steps": steps + 2, "shape": {"layers": 2}},
        {"name": "deep", "steps": steps + 2, "grow": "stack", "shape": {"layers": 4}},
    ]
    folder.mkdir()
    file = folder / "grown.yaml"
    file.write_text(yaml.safe_dump(values), "utf-8")
    run = resolve(load_recipe(file), Corpus.open(values["data"]["corpus"]).vocab_size, 2)
    time = run_time(run, machine)
    with (folder / "grown.log").open("wb") as output:
        command = ["pretrain", "train", str(file), "--runs", str(folder / "runs")]
        code = run_here(command, 2, output=output)
    assert code == 0, (folder / "grown.log").read_text("utf-8")
    lines = [json.loads(line) for line in (folder / "runs" / "grown" / "metrics.jsonl").read_text().splitlines()]
    rows = []
    for each in time.stages:
        ends = [line["seconds"] for line in lines if "event" not in line and line["stage"] == each.stage.name]
        taken = [after - before for before, after in pairwise(ends[1:])]
        rows.append((f"{GROWN}, 2 processes, ZeRO 1, {each.stage.name}", each.step.seconds, median(taken)))
    return rows


def lines_of(machine: Machine, found: list[Cell]) -> list[str]:
    errors = sorted(abs(each.error) for each in found)
    rows = [
        f"| {each.name} | {1e3 * each.predicted:.0f} | {1e3 * each.best:.0f} | {each.error:+.1%} "
        f"| {spread(each.predictions):.1%}, {spread(each.rounds):.1%} |"
        for each in found
    ]
    return [
        f"{machine.measured.partition(',')[0]}, {machine.ranks} processes of one thread, fp32. Each round begins with",
        "`profile --calibrate`, which measures products, passes, messages and steps of 2 layers of 64, and goes on to",
        "every cell. Of predicted times the median of the rounds counts, of measured ones the best; the spreads say",
        "how much more the longest was than the shortest, predicted and measured. This machine has other users, and is",
        "slower in one hour than in another.",
        "",
        "| cell | predicted ms | best ms | error | spreads |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Median error {median(errors):.1%}, worst {errors[-1]:.1%}; goals 8% and 20%.",
    ]
