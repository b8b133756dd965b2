"""How a run stands, read from its folder without torch: by whoever waits for it, while it trains or afterwards."""

import math
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml

from model.errors import UserError
from pretrain.checkpoint.lineage import overtaken_by
from pretrain.cost.ahead import flops_left
from pretrain.runs import journal
from pretrain.runs.journal import ENDS, STARTS, Entry
from pretrain.runs.liveness import is_held

SILENT_SECONDS, SILENT_STEPS = 120.0, 10
"""A run is silent when it has written nothing for so long, and for as long as so many of its steps take."""

NUM_LAST_STEPS = 20
"""Steps that loss and speed are averaged over."""


@dataclass(frozen=True)
class Checkpoint:
    step: int
    age_seconds: float


@dataclass(frozen=True)
class Pilot:
    """A run before the run, by which it dates its change of shape (`until: mixing`)."""

    name: str
    step: int
    num_steps: int | None


@dataclass
class Status:
    """Fields are the keys of `status --json`; None is what the folder does not say."""

    run: str
    state: str = "unknown"
    """starting, running, saving, silent, waiting (in a queue, to be started again), preempted, failed, stopped or
    finished."""
    cause: str | None = None
    """Of a state that is not the usual one."""
    silent_seconds: float | None = None
    """Since it last wrote something."""
    step: int | None = None
    share: float | None = None
    """Of the run's length, in steps or in time, as its recipe has it."""
    num_steps: int | None = None
    """Of the whole run, where it is measured in steps."""
    stage: str | None = None
    pilot: Pilot | None = None
    """The one under way, while the run itself has not taken a step."""
    loss: float | None = None
    """Training loss in nats, a mean over the last steps."""
    valid_loss: float | None = None
    tokens_per_second: float | None = None
    nodes: int | None = None
    ranks: int | None = None
    job: str | None = None
    seconds_left: float | None = None
    """Of training, at the present FLOPs per second. A stage that a rule may end early counts in full."""
    lead_seconds: float | None = None
    """How long before its end a job should be told, to be saved in time."""
    restarts: list[dict[str, Any]] = field(default_factory=list)
    """step, time, cause, lost_steps."""
    rollbacks: int = 0
    lost_steps: int = 0
    """To restarts and rollbacks."""
    checkpoint: Checkpoint | None = None


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The folders of runs among `paths`, and those directly in them. Raises UserError where one has none."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; name a run's folder, or one that holds runs")
        inside = [path] if _is_run(path) else sorted(each for each in path.iterdir() if each.is_dir() and _is_run(each))
        if not inside:
            raise UserError(f"{path} holds no run; name a run's folder, or one that holds runs")
        found += inside
    return found


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("recipe.yaml", "metrics.jsonl", "journal.jsonl", "checkpoints"))


def read_status(folder: Path) -> Status:
    """Never raises for what is damaged, missing or being written: then it says less."""
    status = Status(str(folder))
    try:
        entries, lines = journal.read(folder), journal.tail(folder / "metrics.jsonl")
        signs = lines or _read_pilots(status, folder)
        _read_journal(status, entries)
        _read_metrics(status, lines)
        _read_length(status, entries, lines, folder)
        status.checkpoint = _newest_checkpoint(folder / "checkpoints")
        _judge(status, folder, entries, signs)
    except Exception as fault:  # of whatever kind: a table of twenty runs must not end at the third
        status.state, status.cause = "unknown", f"its files cannot be read ({' '.join(str(fault).split())[:100]})"
    return status


def _read_pilots(status: Status, folder: Path) -> list[Entry]:
    """The last steps and events of the pilot that wrote last."""
    files = sorted(folder.glob("pilots/*/metrics.jsonl"), key=lambda file: file.stat().st_mtime)
    lines = journal.tail(files[-1]) if files else []
    if lines:
        pilot = files[-1].parent
        status.pilot = Pilot(pilot.name, lines[-1]["step"], _steps_of_recipe(pilot / "recipe.yaml"))
    return lines


def _read_journal(status: Status, entries: list[Entry]) -> None:
    begun = next((entry for entry in reversed(entries) if entry["event"] in STARTS), {})
    status.nodes, status.ranks, status.job = begun.get("nodes"), begun.get("ranks"), begun.get("job")
    keys = ("step", "time", "cause", "lost_steps")
    status.restarts = [{key: entry.get(key) for key in keys} for entry in entries if entry["event"] == "restart"]
    status.rollbacks = sum(entry["event"] == "rollback" for entry in entries)
    status.lost_steps = sum(entry.get("lost_steps", 0) for entry in entries)
    status.lead_seconds = next((each["seconds"] for each in reversed(entries) if each["event"] == "lead"), None)


def _read_metrics(status: Status, lines: list[Entry]) -> None:
    steps = [line for line in lines if "event" not in line][-NUM_LAST_STEPS:]
    if lines:
        status.step = lines[-1]["step"]
        status.stage = next((line["stage"] for line in reversed(lines) if "stage" in line), None)
    losses = [line["loss"] for line in steps if math.isfinite(line["loss"])]
    status.loss = fmean(losses) if losses else None
    status.tokens_per_second = median(line["tokens_per_second"] for line in steps) if steps else None
    validations = [line["valid_loss"] for line in lines if line.get("event") == "validation"]
    status.valid_loss = validations[-1] if validations and math.isfinite(validations[-1]) else None


def _read_length(status: Status, entries: list[Entry], lines: list[Entry], folder: Path) -> None:
    """Share and time left: from the stages ahead, as the run has written them down; else from its recipe's steps."""
    steps = [line for line in lines if "event" not in line][-NUM_LAST_STEPS:]
    now = {"steps": status.step or 0, "seconds": steps[-1]["seconds"] if steps else 0}
    plan = next((entry for entry in reversed(entries) if entry["event"] == "stage"), None)
    if plan and plan["ahead"]:
        unit, end = plan["unit"], plan["ahead"][-1]["end"]
        status.num_steps = round(end) if unit == "steps" else None
        status.share = min(now[unit] / end, 1.0)
        if unit == "seconds":
            status.seconds_left = max(0.0, end - now[unit])
        elif speed := _per_second(steps, "flops"):
            status.seconds_left = flops_left(plan["ahead"], now[unit]) / speed
    elif num_steps := _steps_of_recipe(folder / "recipe.yaml"):
        status.num_steps, status.share = num_steps, min(now["steps"] / num_steps, 1.0)
        if speed := _per_second(steps, "step"):
            status.seconds_left = max(0, num_steps - now["steps"]) / speed


def _per_second(steps: list[Entry], key: str) -> float | None:
    """How fast a total grows in the last steps, by the run's own clock of training."""
    seconds = steps[-1]["seconds"] - steps[0]["seconds"] if steps else 0
    return (steps[-1][key] - steps[0][key]) / seconds if seconds > 0 else None


def _steps_of_recipe(file: Path) -> int | None:
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        recipe = yaml.safe_load(file.read_text("utf-8"))
        steps = recipe.get("steps") or sum(stage["steps"] for stage in recipe["stages"])
        return steps if isinstance(steps, int) else None
    return None


def _newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest of a step that counts and whose files are all there, up to the one that `latest` names."""
    latest = "~"  # after all names
    with suppress(OSError, ValueError):
        latest = (folder / "latest").read_text("utf-8").strip() or latest
    for path in sorted(folder.glob("step-" + "[0-9]" * 8), reverse=True):
        sums = path / "SHA256SUMS"
        with suppress(OSError, ValueError):
            names = [line.partition("  ")[2] for line in sums.read_text("utf-8").splitlines()]
            is_whole = "index.json" in names and all((path / name).is_file() for name in names)
            if path.name <= latest and is_whole and not overtaken_by(path):
                return Checkpoint(int(path.name[5:]), max(0.0, time.time() - sums.stat().st_mtime))
    return None


def _judge(status: Status, folder: Path, entries: list[Entry], lines: list[Entry]) -> None:
    last = next((entry for entry in reversed(entries) if entry["event"] in (*STARTS, *ENDS, "requeued")), {})
    event = last.get("event")
    if (folder / "summary.json").is_file() or event == "finished":
        status.state, status.seconds_left, status.share = "finished", None, 1.0
    elif is_held(folder):
        status.silent_seconds = _seconds_since_written(folder)
        steps = [line for line in lines if "event" not in line]
        usual = _per_second(steps[-NUM_LAST_STEPS:], "step")
        limit = max(SILENT_SECONDS, SILENT_STEPS / usual if usual else 0)
        if status.silent_seconds > limit:
            status.state = "silent"
        elif any((folder / "checkpoints").glob("*.partial")):
            status.state = "saving"
        else:
            status.state = "running" if event in STARTS and steps and steps[-1]["step"] > last["step"] else "starting"
    elif event == "requeued":
        status.state = "waiting"
        status.cause = next((entry.get("cause") for entry in reversed(entries) if entry["event"] in ENDS), None)
    elif event in ENDS:
        status.state = "failed" if event == "failure" else event
        status.cause = last.get("cause")
    elif event in STARTS:
        status.state, status.cause = "failed", "it ended without a word: it was killed, or its node was lost"
    else:
        status.state = "stopped"  # by a version without a journal


def _seconds_since_written(folder: Path) -> float:
    """Since any of the files changed that a run writes as it goes."""
    dates, files = [], [folder / name for name in ("metrics.jsonl", "recipe.yaml", "checkpoints")]
    in_pilots = [*folder.glob("pilots/*/metrics.jsonl"), *folder.glob("pilots/*/checkpoints/*/*")]
    for path in [*files, journal.journal_of(folder), *folder.glob("checkpoints/*/*"), *in_pilots]:
        with suppress(OSError):
            dates.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(dates)) if dates else 0.0
