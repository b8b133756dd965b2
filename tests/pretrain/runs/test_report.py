"""The page of a run: its numbers are the run's, and a real browser draws it without a network."""

import json
import re
import shutil
import subprocess
from unittest.mock import patch

import pytest

from model.errors import UserError
from pretrain.runs.history import History
from pretrain.runs.report import MAX_POINTS, report_data, write_report
from tests.support.run_on_disk import history_lines

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here: install Debian's package `chromium`")
EXTRAS = [
    {"event": "memory", "step": 10, "host_memory_gib": 1.5},
    {"event": "memory", "step": 30, "host_memory_gib": 1.75},
    {"event": "coefficients", "step": 10, "values": {"heads": [[1.0, 0.5], [0.25, 0.0]], "ffn": [[1.0, 2.0, 3.0]]}},
    {"event": "coefficients", "step": 20, "values": {"heads": [[0.9, 0.4], [0.1, 0.0]], "ffn": [[1.0, 2.0, 2.5]]}},
    {"event": "update_size", "step": 20, "rms": {"pooler.weight": 0.2, "pooler.bias": 0.3, "mlm.bias": 0.9}},
    {"event": "update_size", "step": 21, "rms": {"pooler.weight": 0.2, "pooler.bias": 0.4, "mlm.bias": 0.8}},
    {"event": "checkpoint", "step": 30, "name": "step-00000030", "pause_seconds": 0.01234567, "bytes": 1234},
    {"event": "rollback", "step": 25, "message": "back to step 20 </script><b>"},
]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "grown & <pruned>"
    folder.mkdir()
    lines = sorted([*history_lines(), *EXTRAS], key=lambda line: line["step"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.yaml").write_text("name: two-stages # </pre>\n")
    return folder


def chart(data, title):
    return next(one for one in data["charts"] if one["title"] == title)


def test_curves_tables_and_maps_hold_the_runs_numbers(run):
    data = report_data(History.read(run))
    train, valid = chart(data, "Loss on masked tokens")["series"]
    assert train["x"]["tokens"][:2] == [1024, 2048]
    assert train["x"]["seconds"][-1] == 20.0
    assert train["y"][0] == 6.9
    assert (valid["x"]["step"], valid["x"]["flops"], valid["y"]) == ([0, 40], [0, 4e9], [7.0, 3.6])
    assert [stage["at"]["tokens"] for stage in data["stages"]] == [0, 20480]
    assert data["changes"][0]["at"] == {"step": 20, "tokens": 20480, "flops": 2e9, "seconds": 10.0}
    row = dict(zip(data["change_table"]["columns"], data["change_table"]["rows"][0], strict=True))
    assert (row["operator"], row["loss before"], row["loss after"]) == ("stack", 5.0, 5.5)
    assert [row[:3] for row in data["stage_table"]["rows"]] == [["first", 0, 20], ["second", 20, 20]]
    assert (row["update size before"], row["update size after"]) == (0.3, 0.4)
    assert data["event_table"]["rows"] == [
        ["rollback", 25, "back to step 20 </script><b>"],
        ["checkpoint", 30, "name step-00000030, pause seconds 0.01235, bytes 1234"],
    ]
    maps = {one["title"]: one for one in data["maps"]}
    assert maps["coefficients: heads"]["values"] == [[1.0, 0.9], [0.5, 0.4], [0.25, 0.1], [0.0, 0.0]]
    assert maps["update size"]["rows"] == ["pooler.weight", "pooler.bias", "mlm.bias"]
    assert maps["update size"]["columns"] == [20, 21]
    assert chart(data, "Host memory")["series"][0]["y"] == [1.5, 1.75]


def test_whatever_numbers_the_steps_have_are_drawn():
    lines = [{**line, "loss_scale": 2.0} if "event" not in line else line for line in history_lines()]
    assert chart(report_data(History(lines)), "loss scale")["series"][0]["y"][0] == 2.0


def test_what_rules_measured_and_the_tickets_they_would_draw():
    drawn = [{"heads": {"0": [1, 0]}, "ffn": {"0": 0.75}}, {"heads": {"0": [0, 1]}, "ffn": {"0": 0.5}}]
    checks = [
        {"event": "check", "rule": "ticket_distance", "step": step, "stage": "first", "in_a_row": 0, **numbers}
        for step, numbers in ((10, {"distance": 0.5, "ticket": drawn[0]}), (20, {"distance": 0.1, "ticket": drawn[1]}))
    ]
    data = report_data(History(sorted([*history_lines(), *checks], key=lambda line: line["step"])))
    assert chart(data, "ticket distance: distance")["series"][0]["y"] == [0.5, 0.1]
    maps = {one["title"]: one for one in data["maps"]}
    assert maps["ticket distance: heads"]["values"] == [[1.0, 0.0], [0.0, 1.0]]
    assert maps["ticket distance: ffn"] == {
        **{"title": "ticket distance: ffn", "rows": ["ffn 0"], "columns": [10, 20]},
        "values": [[0.75, 0.5]],
    }
    assert data["event_table"]["rows"] == []


def test_a_loss_with_other_parts_gets_a_chart_of_its_own():
    assert all(one["title"] != "loss" for one in report_data(History(history_lines()))["charts"])
    lines = [{**line, "loss": line["loss"] + 0.5} if "event" not in line else line for line in history_lines()]
    data = report_data(History(lines))
    assert chart(data, "loss")["series"][0]["y"][0] == 7.4
    assert chart(data, "Loss on masked tokens")["series"][0]["y"][0] == 6.9


def test_long_curves_are_means_and_not_finite_values_are_left_out():
    lines = [line for line in history_lines(5 * MAX_POINTS) if "event" not in line]
    lines[7] = {**lines[7], "grad_norm": float("nan")}
    data = report_data(History(lines))
    (series,) = chart(data, "Loss on masked tokens")["series"]
    assert len(series["y"]) == MAX_POINTS
    assert series["y"][0] == pytest.approx(7.0 - 0.3)
    assert series["x"]["step"][0] == 5
    json.dumps(data, allow_nan=False)


def drawn_by_browser(page, profile) -> str:
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    drawn = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    (root,) = re.findall(r"<html[^>]*>", drawn)
    assert 'data-drawn="yes"' in root, root
    return drawn


@pytest.fixture
def diverged(run):
    """Every number but those of work and time is none from step 20 on."""
    counted = ("flops", "seconds", "tokens_per_second", "pause_seconds")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["step"] >= 20:
            line.update({key: float("nan") for key in line if isinstance(line[key], float) and key not in counted})
            line.update({key: {name: float("inf") for name in line[key]} for key in ("rms",) if key in line})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_the_page_of_a_run_that_diverged_is_json(diverged):
    (data,) = re.findall(r'id="data">(.*?)</script>', write_report(diverged).read_text(), re.DOTALL)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    totals = {name: value for name, value, _ in json.loads(data, parse_constant=refuse)["totals"]}
    assert (totals["validation loss"], totals["validation accuracy"]) == ("nan", "nan")
    assert totals["steps"] == 40


def test_a_change_right_after_the_start_keeps_the_order_of_the_columns(run):
    """No update size was measured before it."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if '"update_size", "step": 20' not in line))
    table = report_data(History.read(run))["change_table"]
    assert table["columns"][-2:] == ["update size before", "update size after"]
    assert table["rows"][0][-2:] == ["", 0.4]


@needs_browser
def test_a_browser_draws_a_run_that_diverged(diverged, tmp_path):
    assert "<dt>validation loss</dt><dd>nan</dd>" in drawn_by_browser(write_report(diverged), tmp_path / "profile")


@pytest.mark.parametrize(
    "garbled",
    [b'{"step": 3, "loss" }', b'{"loss": 2.0}', b'"step"', b'{"step": 3, "stage": "\xff"}', b""],
    ids=["no JSON", "no step", "no object", "no UTF-8", "nothing"],
)
def test_a_damaged_line_is_named_and_a_torn_last_one_forgiven(run, garbled):
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines()
    metrics.write_bytes(b"\n".join([*lines, garbled]))
    assert len(History.read(run).lines) == len(lines)
    metrics.write_bytes(b"\n".join([*lines[:2], garbled, *lines[2:]]))
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged: line 3 is not a step or an event; remove it"):
        History.read(run)


def test_the_page_needs_nothing_but_itself(run):
    text = write_report(run).read_text()
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\(|fetch\(""", text)
    assert "<title>grown &amp; &lt;pruned&gt;</title>" in text
    assert text.count("</script>") == 2
    assert "two-stages # &lt;/pre&gt;" in text


def test_no_text_of_a_run_ends_or_swallows_the_script(run):
    line = {"event": "decision", "step": 2, "stage": "a", "message": "<!--<script></script>"}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    text = write_report(run).read_text("utf-8")
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert "<" not in data
    assert "<!--<script></script>" in json.dumps(json.loads(data))


def test_a_disk_that_takes_nothing_is_one_line(run):
    error = OSError(30, "Read-only file system")
    with patch("pretrain.runs.report.replace_text", side_effect=error), pytest.raises(UserError) as told:
        write_report(run)
    place = f"{run / 'report.html'} cannot be written: Read-only file system"
    assert str(told.value) == f"{place}; name another place by --output"


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"has no metrics.jsonl; name the folder of a run"):
        write_report(tmp_path)


@needs_browser
def test_a_browser_draws_every_chart(run, tmp_path):
    drawn = drawn_by_browser(write_report(run), tmp_path / "profile")
    data = report_data(History.read(run))
    assert drawn.count('<path class="line ') == sum(len(one["series"]) for one in data["charts"])
    assert drawn.count("<figure>") == len(data["charts"]) + len(data["maps"])
    assert drawn.count('class="growth"') == len(data["charts"])
    assert drawn.count('class="cell"') == 4 * 2 + 3 * 2 + 3 * 2
    assert "NaN" not in drawn
    assert ">stack</td>" in drawn
