"""The verb `report`: one HTML page of a run, which needs no network and no other file.

The page holds the numbers as JSON and a script that draws them; templates/report.html, .css and .js are its parts.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import fmean, median
from string import Template
from typing import Any

from model.errors import UserError
from pretrain.checkpoint.tensors import replace_text
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History, Line, final_loss, is_finite_number, usual_speed, usual_step_seconds
from pretrain.runs.html import TEMPLATES, style

PARTS = {"style": "report.css", "script": "report.js"}
MAX_POINTS = 600
"""Of a curve: a longer one is drawn as means over equal stretches."""

AXES = ("step", "tokens", "flops", "seconds")
CHARTS = {
    "Loss on masked tokens": ("nats", ("mlm_loss", "valid_loss")),
    "Masked-token accuracy": ("", ("mlm_accuracy", "valid_accuracy")),
    "Learning rate": ("", ("lr",)),
    "Gradient norm before clipping": ("", ("grad_norm",)),
    "Throughput": ("tokens/s", ("tokens_per_second",)),
    "Host memory": ("GiB, of rank 0", ("host_memory_gib",)),
    "GPU memory": ("GiB, peak of rank 0", ("gpu_peak_memory_gib",)),
}
"""Title: unit, and the keys of metrics.jsonl. Whatever other numbers the steps have gets a chart each."""
CHANGE_COLUMNS = ("operator", "step", "stage", "loss_before", "loss_after", "moments", "seconds")
KNOWN_EVENTS = ("stage", "growth", "validation")
TOLD_BY_MESSAGE = ("objective", "heads")
"""Events with values that their message says."""
MAX_EVENTS = 200


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Writes `report.html` into a run's folder, or to `output`. Raises UserError when the folder holds no run."""
    output, text = output or RunFolder(folder).report, page(folder, History.read(folder))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(output, text)
    except OSError as fault:
        raise UserError(f"{output} cannot be written: {fault.strerror}; name another place by --output") from None
    return output


def page(folder: Path, history: History) -> str:
    run_folder = RunFolder(folder)
    # "</" would end the script element early, and after "<!--<script" nothing would end it.
    data = json.dumps(report_data(history), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {kind: (TEMPLATES / name).read_text("utf-8") for kind, name in PARTS.items()}
    parts["style"] = style() + parts["style"]
    return Template((TEMPLATES / "report.html").read_text("utf-8")).substitute(
        parts,
        title=escape(folder.resolve().name),
        recipe=escape(_text(run_folder.recipe)),
        versions=escape(_text(run_folder.versions)),
        data=data,
    )


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.is_file() else "not recorded"


def report_data(history: History) -> dict[str, Any]:
    """Everything that the page shows, as JSON without NaN and infinity, which JSON does not have."""
    where = Places(history)
    return {
        "summary": _summary(history),
        "totals": list(_totals(history)),
        "charts": list(_charts(history, where)),
        "stages": [{"stage": line["stage"], "at": where.at(line["step"])} for line in history.stages],
        "changes": [
            {"operator": line["operator"], "step": line["step"], "at": where.at(line["step"])}
            for line in history.events("growth")
        ],
        "stage_table": _stage_table(history),
        "change_table": _change_table(history),
        "maps": list(_maps(history)),
        "event_table": _event_table(history),
    }


class Places:
    """Where a step lies on every horizontal axis."""

    def __init__(self, history: History):
        self.by_step: dict[int, dict[str, float]] = {0: dict.fromkeys(AXES, 0.0)}
        for line in history.steps:
            self.by_step[line["step"]] = {axis: line[axis] for axis in AXES}

    def at(self, step: int) -> dict[str, float]:
        """Of the last step taken up to `step`."""
        if step not in self.by_step:
            step = max(known for known in self.by_step if known <= step)
        return self.by_step[step]


def _summary(history: History) -> str:
    shapes = dict.fromkeys(line["shape"] for line in history.stages)
    return " → ".join(shapes) if history.steps else "no step taken yet"


def _totals(history: History) -> Iterator[tuple[str, float | str, str]]:
    if history.steps:
        last = history.steps[-1]
        yield from (
            ("steps", last["step"], ""),
            ("tokens", last["tokens"], ""),
            ("FLOPs", last["flops"], ""),
            ("training time", last["seconds"], "s"),
        )
    if validations := history.events("validation"):
        yield "validation loss", _finite(validations[-1]["valid_loss"]), "nats"
        yield "validation accuracy", _finite(validations[-1]["valid_accuracy"]), "%"


def _charts(history: History, where: Places) -> Iterator[dict[str, Any]]:
    lines = {"train": history.steps, "validation": history.events("validation"), "memory": history.events("memory")}
    drawn = {key for _, keys in CHARTS.values() for key in keys} | {*AXES}
    if all(line["loss"] == line["mlm_loss"] for line in history.steps):  # no other part, such as that of sentence pairs
        drawn.add("loss")
    others = dict.fromkeys(
        key
        for held in (lines["train"], lines["memory"])
        for line in held
        for key, value in line.items()
        if key not in drawn and is_finite_number(value)
    )
    for title, (unit, keys) in {**CHARTS, **{_words(key): ("", (key,)) for key in others}}.items():
        series = [one for key in keys for source, held in lines.items() if (one := _series(source, key, held, where))]
        if series:
            yield {"title": title, "unit": unit, "series": series}
    yield from _checks(history, where)


def _checks(history: History, where: Places) -> Iterator[dict[str, Any]]:
    """What the rules of stages measured whenever they looked."""
    looks = [line for line in history.lines if "in_a_row" in line]
    for rule in dict.fromkeys(line["rule"] for line in looks):
        lines = [line for line in looks if line["rule"] == rule]
        for key in dict.fromkeys(key for line in lines for key in line if key not in ("step", "in_a_row")):
            if series := _series("check", key, lines, where):
                yield {"title": f"{_words(rule)}: {_words(key)}", "unit": "", "series": [series]}


def _series(source: str, key: str, lines: Sequence[Line], where: Places) -> dict[str, Any] | None:
    points = [(where.at(line["step"]), line[key]) for line in lines if is_finite_number(line.get(key))]
    if not points:
        return None
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return {
        "name": source,
        "style": "second" if source == "validation" else "first",
        "dots": source in ("validation", "check") and len(groups) < 80,
        "x": {axis: [group[-1][0][axis] for group in groups] for axis in AXES},
        "y": [float(f"{fmean(value for _, value in group):.6g}") for group in groups],
    }


def _stage_table(history: History) -> dict[str, Any]:
    columns = ["stage", "from step", "steps", "shape", "loss at its end", "tokens/s"]
    rows: list[list[Any]] = []
    for stage in history.stages:
        taken = history.steps_of(stage["stage"])
        loss, speed = final_loss(taken), usual_speed(taken)
        numbers = ("" if math.isnan(loss) else loss, round(speed) if taken else "")
        rows.append([stage["stage"], stage["step"], len(taken), stage["shape"], *numbers])
    if expected := history.expected_step_seconds:
        columns += ["ms a step", "expected ms"]
        for row in rows:
            seconds = usual_step_seconds(history.steps_of(row[0])), expected.get(row[0])
            row += [_cell(each and 1e3 * each) for each in seconds]
    return {"columns": columns, "rows": rows}


def _change_table(history: History) -> dict[str, Any]:
    """The known columns, update sizes where they were measured, and whatever other numbers the changes carry."""
    rows = []
    for line in history.events("growth"):
        numbers = {key: value for key, value in line.items() if is_finite_number(value)}
        rows.append({key: line.get(key) for key in CHANGE_COLUMNS} | _update_sizes(history, line["step"]) | numbers)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return {"columns": [_words(column) for column in columns], "rows": cells}


def _update_sizes(history: History, step: int) -> dict[str, float | None]:
    """The median over tensors of RMS(update) / lr, in the last step before a change and the first one after."""
    events = history.events("update_size")
    sizes = {
        "update_size_before": next((line["rms"] for line in reversed(events) if line["step"] <= step), None),
        "update_size_after": next((line["rms"] for line in events if line["step"] > step), None),
    }
    if not any(sizes.values()):
        return {}
    return {name: median(held.values()) if held else None for name, held in sizes.items()}


def _maps(history: History) -> Iterator[dict[str, Any]]:
    """Heat maps of the events, or rules, that carry named values: a row for each value, a column for each event.

    Names lead to numbers, which share one map, or to (nested) lists of numbers, such as heads or units by layer, which
    get a map each.
    """
    held = [line for line in history.lines if _has_values(line)]
    for kind in dict.fromkeys(str(line.get("rule", line["event"])) for line in held):
        groups: dict[str, dict[int, dict[str, float]]] = {}
        for line in (line for line in held if line.get("rule", line["event"]) == kind):
            for name, value in (
                pair for values in line.values() if isinstance(values, dict) for pair in values.items()
            ):
                title = _words(kind) if is_finite_number(value) else f"{_words(kind)}: {name}"
                groups.setdefault(title, {}).setdefault(line["step"], {}).update(_flatten(name, value))
        for title, columns in groups.items():
            rows = list(dict.fromkeys(name for column in columns.values() for name in column))
            values = [[float(f"{column.get(name, 0.0):.4g}") for column in columns.values()] for name in rows]
            yield {"title": title, "rows": rows, "columns": list(columns), "values": values}


def _has_values(line: Line) -> bool:
    is_of_interest = "event" in line and line["event"] not in (*KNOWN_EVENTS, *TOLD_BY_MESSAGE)
    return is_of_interest and any(isinstance(value, dict) for value in line.values())


def _flatten(name: str, value: Any) -> Iterable[tuple[str, float]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flatten(f"{name} {key}", inner)
    elif is_finite_number(value):
        yield name, value


def _event_table(history: History) -> dict[str, Any]:
    others = [line for line in history.lines if "event" in line and not _is_drawn(line)]
    rows = [[line["event"], line["step"], line.get("message") or _details(line)] for line in others[-MAX_EVENTS:]]
    return {"columns": ["event", "step", ""], "rows": rows}


def _is_drawn(line: Line) -> bool:
    return line["event"] in (*KNOWN_EVENTS, "memory") or "in_a_row" in line or _has_values(line)


def _details(line: Line) -> str:
    rest = {key: value for key, value in line.items() if key not in ("event", "step", "stage")}
    return ", ".join(
        f"{_words(key)} {_cell(value)}" for key, value in rest.items() if not isinstance(value, dict | list)
    )


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return _finite(float(f"{value:.4g}"))
    return "" if value is None else value


def _finite(value: float) -> float | str:
    """As a word what JSON has no number for."""
    return value if math.isfinite(value) else str(value)


def _words(key: str) -> str:
    return key.replace("_", " ")
