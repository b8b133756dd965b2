"""The ten minutes on a GPU, rehearsed on the CPU with a tiny shape: every part writes figures, which no stop loses."""

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gpu import session
from tests.gpu.page import page
from tests.gpu.session import Part, run_part
from tests.support.workers import pool


def rehearse(folder) -> None:
    for part in session.parts(tries_out=True):
        run_part(replace(part, seconds=3600), folder)  # however busy this machine is


def test_every_part_measures(tmp_path):
    pool(1).run(rehearse, tmp_path)
    reports = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    for part in session.parts(tries_out=True):
        report = reports[part.name]
        assert report["ended"] == "complete", report
        assert report["rows"]
        assert not any("error" in row for row in report["rows"]), report
    missing = {row["kernel"]: row["not here"] for row in reports["kernels"]["rows"] if "not here" in row}
    assert missing["varlen, runs, dropout 0.1"] == "varlen needs a GPU"
    shown = page(tmp_path)
    assert all(f"## {part.name}" in shown for part in session.parts(tries_out=True))


def breaks_off(folder):
    yield {"row": 1}
    raise RuntimeError("CUDA error: an illegal memory access")


def never_ends(folder):
    yield {"row": 1}
    while True:
        with suppress(Exception):  # as of a cell
            time.sleep(0.01)


def test_all_that_is_limited_fits_into_the_ten_minutes():
    script = Path(session.__file__).with_suffix(".sh").read_text()
    commands = sum(map(int, re.findall(r"limit (?:--\S+ )?(\d+) ", script)))
    (all_of_it,) = map(int, re.findall(r"limit \$\(\((\d+) - SECONDS", script))
    assert commands + sum(part.seconds for part in session.parts(tries_out=False)) <= all_of_it


@pytest.mark.parametrize(
    ("rows", "seconds", "ended"),
    [(breaks_off, 60, "RuntimeError: CUDA error: an illegal memory access"), (never_ends, 1, "out of time")],
)
def test_what_was_measured_before_a_fault_is_there(tmp_path, rows, seconds, ended):
    run_part(Part("part", seconds, rows), tmp_path)
    report = json.loads((tmp_path / "part.json").read_text())
    assert report["rows"] == [{"row": 1}] and report["ended"] == ended
    assert ended in page(tmp_path)


def test_a_part_that_has_begun_is_not_begun_again(tmp_path, monkeypatch):
    """It may be what killed the process before."""
    (tmp_path / "one.json").write_text("{}")
    begun = []
    both = [Part(name, 1, lambda folder: iter(())) for name in ("one", "two")]
    monkeypatch.setattr(session, "parts", lambda tries_out: both)
    monkeypatch.setattr(session, "run_part", lambda part, folder: begun.append(part.name))
    session.run(tmp_path, True)
    assert begun == ["two"]
    assert "WORLD_SIZE" not in os.environ
