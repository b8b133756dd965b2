"""`profile --calibrate NAME`: measures this machine and writes its file."""

import json
import os
import platform
import re
import socket
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from pydantic import BaseModel

from model.errors import UserError
from pretrain.cost.time.machine import OWN, SHIPPED, Link, Machine, NotNegative
from pretrain.launch.gpus import count_gpus
from pretrain.launch.local import run_here
from pretrain.profile.synthetic import synthetic_recipe
from pretrain.recipe import load
from pretrain.settings.yaml_text import parse

EXPECTED_ERROR, ERROR_SOURCE = 20, "a little more than the worst step in docs/results/prediction.md"
"""In percent."""
GPU_START, CPU_START = 120.0, 15.0
"""Seconds until the first step, which are not measured."""


def calibrate(name: str, nproc: int | None) -> Path:
    """Some three minutes on a CPU. `nproc`: ranks that work together; by default one for each GPU, or for each core.

    Writes machines/NAME.yaml, or the path that NAME is. Values that a person has set there (price, between) stay.
    """
    file = machine_file(name)
    kept = filled_in(file)
    ranks = nproc or count_gpus() or num_cores()
    with TemporaryDirectory(prefix="espalier-") as name_of_folder:
        folder = Path(name_of_folder)
        out, log = folder / "machine.json", folder / "log"
        recipe = synthetic_recipe(folder, sequence=64)
        command = ["pretrain.profile.calibrate.measure", str(recipe), "--out", str(out)]
        with log.open("wb") as output:
            code = run_here(command, ranks, output=output)
        if code:
            last = log.read_text("utf-8", errors="replace").strip().splitlines()[-1:]
            raise UserError(f"--calibrate failed (exit code {code}): {' '.join(last)}")
        values = json.loads(out.read_text("utf-8"))
    write_machine(file, values, ranks, kept)
    return file


def machine_file(name: str) -> Path:
    """Raises UserError for a name that no file can have, and for one that ships."""
    if "/" in name or name.endswith(".yaml"):
        return Path(name).with_suffix(".yaml")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"--calibrate {name!r} is not a name: use letters, digits, dots, hyphens, or give a path")
    if (SHIPPED / f"{name}.yaml").exists():
        raise UserError(f"--calibrate {name}: a machine of that name ships with Espalier; choose another name")
    return OWN / f"{name}.yaml"


class FilledIn(BaseModel):
    """What a person has set in a machine's file, whatever else is there."""

    price: NotNegative | None = None
    between: Link | None = None


def filled_in(file: Path) -> FilledIn:
    """Raises UserError for values that cannot stay."""
    if not file.is_file():
        return FilledIn()
    values = parse(file.read_text("utf-8", errors="replace"), str(file))
    with load.explained(FilledIn, str(file)):
        return FilledIn.model_validate(values)


def write_machine(file: Path, measured: dict[str, Any], ranks: int, kept: FilledIn) -> None:
    on_gpu, today = count_gpus() > 0, date.today()
    values = {
        "about": f"{ranks} {'GPUs' if on_gpu else 'processes'} of {platform.machine()} {socket.gethostname()}",
        "measured": f"{today.day} {today:%B %Y}, by profile --calibrate, all {ranks} ranks at work",
        "error_percent": EXPECTED_ERROR,
        "error_source": ERROR_SOURCE,
        "host_name": socket.gethostname(),
        "device": "gpu" if on_gpu else "cpu",
        "ranks": ranks,
        "price": kept.price,
        **measured,
    }
    values["host"] |= {"start_seconds": GPU_START if on_gpu else CPU_START}
    if kept.between:
        values["between"] = kept.between.model_dump(mode="json")
    rounded = _rounded(values)
    Machine.model_validate({"name": file.stem} | rounded)
    file.parent.mkdir(parents=True, exist_ok=True)
    head = "# Written by ./launch.sh profile --calibrate. `price` is that of one rank for an hour: yours to fill in.\n"
    file.write_text(head + yaml.safe_dump(rounded, sort_keys=False, default_flow_style=None, width=110), "utf-8")


def num_cores() -> int:
    """Of this process."""
    return len(os.sched_getaffinity(0))


def _rounded(value: Any) -> Any:
    """Three digits say all that such a measurement knows."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {int(key) if str(key).isdigit() else key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
