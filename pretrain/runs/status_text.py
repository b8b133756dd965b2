"""What the verb `status` prints: some lines about one run, a table of several."""

import io
import time
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from pretrain.runs.status import Status

WIDTH = 160
COLUMNS = ("run", "state", "step", "share", "stage", "loss", "tokens/s", "ranks", "restarts", "lost", "left", "saved")


def one_run(status: Status) -> str:
    return "\n".join(f"{name:12}{text}" for name, text in _lines(status) if text)


def table(statuses: Sequence[Status]) -> str:
    shown = Table(box=box.SIMPLE_HEAD)
    for heading in COLUMNS:
        shown.add_column(heading, justify="left" if heading in ("run", "state", "stage") else "right")
    for status in statuses:
        shown.add_row(*map(str, _row(status)))
    text = io.StringIO()
    Console(file=text, width=WIDTH, highlight=False, markup=False).print(shown)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip())


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    yield "run", status.run
    yield "state", _state(status) + (f": {status.cause}" if status.cause else "")
    yield "step", _step(status) + (f", stage {status.stage}" if status.stage else "")
    yield "pilot", _pilot(status)
    yield "loss", ", ".join(_losses(status))
    yield "speed", f"{status.tokens_per_second:,.0f} tokens/s" if status.tokens_per_second else ""
    yield "time left", f"about {duration(status.seconds_left)} of training" if status.seconds_left is not None else ""
    yield "ranks", _ranks(status) + (f", job {status.job}" if status.job else "")
    yield "checkpoint", _checkpoint(status)
    if status.lead_seconds and status.state != "finished":
        yield "to save", f"tell it {status.lead_seconds:g} s before: --signal=B:USR1@{status.lead_seconds:g}"
    lost = f", {_count(status.lost_steps, 'step')} lost" if status.lost_steps else ""
    rollbacks = f", {_count(status.rollbacks, 'rollback')}" if status.rollbacks else ""
    yield "restarts", f"{len(status.restarts)}{rollbacks}{lost}"
    for restart in status.restarts:
        when = time.strftime("%F %T", time.localtime(restart["time"])) if restart["time"] else ""
        steps = f" ({_count(restart['lost_steps'], 'step')} lost)" if restart["lost_steps"] else ""
        yield "", f"{when}  at step {restart['step']}{steps}: {restart['cause']}"


def _row(status: Status) -> Iterator[object]:
    yield status.run.rpartition("/")[2] or status.run
    yield _state(status)
    yield "" if status.step is None else f"{status.step:,}"
    yield "" if status.share is None else f"{status.share:.1%}"
    yield status.stage or (f"pilot {status.pilot.name}" if status.pilot else "")
    yield "" if status.loss is None else f"{status.loss:.3f}"
    yield f"{status.tokens_per_second:,.0f}" if status.tokens_per_second else ""
    yield status.ranks or ""
    yield len(status.restarts)
    yield f"{status.lost_steps:,}"
    yield "" if status.seconds_left is None else duration(status.seconds_left)
    yield f"{duration(status.checkpoint.age_seconds)} ago" if status.checkpoint else ""


def _state(status: Status) -> str:
    silent = f" for {status.silent_seconds:,.0f} s" if status.state == "silent" and status.silent_seconds else ""
    return status.state + silent


def _step(status: Status) -> str:
    if status.step is None:
        return "none yet"
    whole = f" of {status.num_steps:,}" if status.num_steps else ""
    return f"{status.step:,}{whole}" + (f" ({status.share:.1%})" if status.share is not None else "")


def _pilot(status: Status) -> str:
    if status.pilot is None:
        return ""
    whole = f" of {status.pilot.num_steps:,}" if status.pilot.num_steps else ""
    return f"{status.pilot.name}, step {status.pilot.step:,}{whole}"


def _losses(status: Status) -> Iterator[str]:
    if status.loss is not None:
        yield f"{status.loss:.4f}"
    if status.valid_loss is not None:
        yield f"validation {status.valid_loss:.4f}"


def _ranks(status: Status) -> str:
    if status.ranks is None:
        return ""
    return f"{status.ranks} on {_count(status.nodes, 'node')}" if status.nodes else str(status.ranks)


def _checkpoint(status: Status) -> str:
    if status.checkpoint is None:
        return "none yet"
    return f"step {status.checkpoint.step:,}, {duration(status.checkpoint.age_seconds)} ago"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s'[: number != 1]}"


def duration(seconds: float) -> str:
    """75 -> 1 min 15 s; 8000 -> 2 h 13 min; 200000 -> 2 d 7 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if count]
    return " ".join(parts[:2]) or "0 s"
