"""The whole comparison on run folders made by hand: table, picture, page and JSON."""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from rich.console import Console

from model.errors import UserError
from pretrain.__main__ import main
from pretrain.compare.table import table_of
from pretrain.compare.verb import compare
from tests.support.made_up import VALIDATION, made_up_recipe


def write_run(folder, name: str, seed: int, flops: int, loss: float, growth: bool = False, layers: int = 4) -> None:
    folder.mkdir(parents=True)
    stages = [{"name": "only", "shape": f"{layers}x128"}]
    events = [
        {"event": "growth", "operator": "stack", "step": 5, "loss_before": 3.0, "loss_after": 3.1, "seconds": 0}
    ] * growth
    summary = dict(
        seconds=flops / 10,
        device_seconds=flops,
        ranks=2,
        flops=flops,
        tokens=4 * flops // layers,
        validated_on=VALIDATION.model_dump(),
        valid_loss=loss,
        valid_accuracy=0.4,
    )
    (folder / "summary.json").write_text(json.dumps(summary | {"stages": stages, "growth": events}))
    half = {"name": "half", "steps": "50%", "shape": {"layers": 2}}
    grown = {"stages": [half, {"name": "full", "grow": "stack", "shape": {"layers": 4}}]} if growth else {}
    recipe = made_up_recipe(name, flops, seed, {"layers": layers}, **grown)
    values = json.loads(recipe.model_dump_json(by_alias=True))
    values["stages"][0]["layout"] = None  # so older versions wrote what a stage leaves out
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    usual = dict(stage="full", mlm_accuracy=0.3, lr=1e-3, grad_norm=1.0, tokens_per_second=100.0)
    steps = [
        usual
        | {"step": s, "loss": 5 - s / 10, "mlm_loss": 5 - s / 10}
        | {"tokens": 100 * s, "flops": s * flops / 10, "seconds": s * flops / 100}
        for s in range(1, 11)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps + events)))


@pytest.fixture
def folders(tmp_path):
    made = []
    for seed in (0, 1, 2):
        for budget in (100, 200, 400):
            made.append(tmp_path / f"base-{budget}-{seed}")
            write_run(made[-1], f"base-{budget}", seed, budget, 9 - math.log(budget) + seed / 100)
        made.append(tmp_path / f"small-{seed}")
        write_run(made[-1], "small", seed, 100, 9 - math.log(160) + seed / 100, layers=2)
        made.append(tmp_path / f"grown-{seed}")
        write_run(made[-1], "grown", seed, 100, 9 - math.log(200) + seed / 100, growth=True)
    return made


def test_table_page_picture_and_json(folders, tmp_path, capsys):
    lines = compare(folders, tmp_path / "out", "mini")
    for width in (80, 120):
        narrow = io.StringIO()
        Console(file=narrow, width=width).print(table_of(lines))
        shown = narrow.getvalue()
        assert "…" not in shown and "2.00 (1.96..2.04)" in shown and max(map(len, shown.splitlines())) <= width
    line, small = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (line["method"], small["method"]) == ("grown", "small")
    assert small["flop_speedup"] == pytest.approx(1.6)
    assert line["bound_over_best"] == ""  # the small model never got there
    assert line["flop_speedup_over_best"] == pytest.approx(2.0)
    assert line["flop_speedup"] == pytest.approx(2.0)
    assert line["wall_speedup"] == pytest.approx(2.0)
    assert line["low"] < 2 < line["high"]
    assert line["significant"]
    assert line["paired"] == {
        "seeds": [0, 1, 2], "values": [pytest.approx(2.0)] * 3, "bounds": [""] * 3, "median": pytest.approx(2.0),
        "low": pytest.approx(2.0), "high": pytest.approx(2.0), "significant": True,
    }  # fmt: skip
    assert line["seeds"] == 3
    assert line["scale"] == "mini"
    printed = capsys.readouterr().out
    assert "2.00" in printed
    assert "precision" not in printed
    assert "significant" in printed and "one seed alone" not in printed
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<td>stack</td>") == 3
    assert "<td>2.00 2.00 2.00, significant</td>" in page
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "compare.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "out" / "compare.svg").read_text()
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "out" / "compare.csv").open())}
    assert float(rows["grown"]["flops_speedup"]) == pytest.approx(2.0)
    assert rows["base-100"]["flops_speedup"] == "" and rows["base-100"]["verdict"] == "baseline"
    assert float(rows["grown"]["valid_loss_low"]) == pytest.approx(9 - math.log(200))
    runs = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert len(runs) == len(folders)
    assert {row["seed"] for row in runs if row["name"] == "grown"} == {"0", "1", "2"}


def test_one_seed_is_said_to_be_too_few(folders, tmp_path, capsys):
    compare([folder for folder in folders if folder.name.endswith("0-0") or "grown" in folder.name], tmp_path, "mini")
    said = "one seed alone is never significant (base-100, base-200, base-400); train others, three are usual"
    assert said in capsys.readouterr().out.splitlines()


def test_an_unfinished_run_is_named(folders, tmp_path):
    (folders[0] / "summary.json").unlink()
    with pytest.raises(UserError, match=folders[0].name):
        compare(folders, tmp_path / "out", "mini")
    assert not (tmp_path / "out").exists()


def with_summary(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    ("file", "damage", "problem"),
    [
        ("recipe.yaml", None, "No such file"),
        ("recipe.yaml", lambda text: "", "write a mapping"),
        ("recipe.yaml", lambda text: "a: [", "expected"),
        ("recipe.yaml", lambda text: text.split("stages:")[0], "stages is missing"),
        ("recipe.yaml", lambda text: text.split("stages:")[0] + "stages: 3", "stages is 3"),
        ("summary.json", lambda text: text[: len(text) // 2], "line 1"),
        ("summary.json", lambda text: text.replace("valid_loss", "other"), "valid_loss is missing"),
        ("summary.json", with_summary(valid_loss=math.nan), "valid_loss is nan"),
        ("summary.json", with_summary(valid_loss=None), "valid_loss is None"),
        ("summary.json", with_summary(validated_on=None), "validated_on is None"),
        ("summary.json", with_summary(validated_on={"rows": True}), "validated_on.rows is True"),
        ("summary.json", with_summary(flops=0), "flops is 0"),
        ("summary.json", with_summary(tokens=0), "tokens is 0"),
        ("summary.json", with_summary(stages=[]), r"stages is \[\]"),
        ("metrics.jsonl", None, "No such file"),
        ("metrics.jsonl", lambda text: text[:-20], "is not a step or an event"),
        ("metrics.jsonl", lambda text: "", "no step"),
        ("metrics.jsonl", lambda text: "3", "line 1 is not a step or an event"),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_written(tmp_path, file, damage, problem):
    write_run(tmp_path / "run", "full", 0, 100, 5.0)
    path = tmp_path / "run" / file
    text = path.read_text()
    path.unlink()
    if damage:
        path.write_text(damage(text))
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is damaged .*\(.*{problem}.*omit it$"):
        compare([path.parent], tmp_path / "out", "mini")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split_hash": "other"}, r"texts or vocabularies \(none, none\)"),
        ({"tokens": 32}, r"rows \(8 of 128 tokens, 8 of 32; "),
        ({"rows": 4}, r"rows \(8 of 128 tokens, 4 of 128; "),
    ],
)
def test_losses_on_different_rows_are_not_compared(folders, tmp_path, change, message):
    other = folders[4] / "summary.json"
    other.write_text(with_summary(validated_on=VALIDATION.model_dump() | change)(other.read_text()))
    with pytest.raises(UserError, match=f"^{folders[3]} and {folders[4]} were validated on different {message}"):
        compare(folders, tmp_path / "out", "mini")
    assert not (tmp_path / "out").exists()


def test_recipes_that_cannot_be_compared_are_not_trained(tmp_path, capsys):
    arguments = ["--runs", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["compare", "--recipes", "base,albert-base", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("espalier: base has data.whole_word False and albert-base True, ")
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_losses_under_different_masks_are_not_compared(folders, tmp_path):
    other = folders[4] / "recipe.yaml"
    values = yaml.safe_load(other.read_text())
    other.write_text(yaml.safe_dump(values | {"data": values["data"] | {"whole_word": True}}))
    with pytest.raises(UserError, match=r"different tasks \(data.whole_word False, True\)"):
        compare(folders, tmp_path / "out", "mini")


@pytest.mark.parametrize("below", [".", "deep/er"])
def test_a_file_where_the_output_goes_is_found_before_any_work(tmp_path, capsys, below):
    (tmp_path / "taken").write_text("mine")
    out = str(tmp_path / "taken" / below)
    assert main(["compare", "--recipes", "mini", "--runs", str(tmp_path), "--out", out]) == 2
    assert "taken is a file, not a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_over_the_small_model_by_its_own_curve(folders, tmp_path, capsys):
    """Between the budgets of one model, never between a full and a small one."""
    for seed in (0, 1, 2):
        for budget in (40, 80):  # far better than the full model: 9 - ln(5 budget)
            folders.append(tmp_path / f"tiny-{budget}-{seed}")
            write_run(folders[-1], "tiny", seed, budget, 9 - math.log(5 * budget) + seed / 100, layers=1)
    for folder in folders:
        if folder.name.startswith("grown"):
            text = (folder / "recipe.yaml").read_text()
            (folder / "recipe.yaml").write_text(text.replace("precision: fp32", "precision: bf16"))
    lines = compare(folders, tmp_path / "out", "mini")
    (grown,) = (line for line in lines if line.contender.name == "grown")
    assert grown.speedups["flops"].reading.factor == pytest.approx(2.0)
    assert str(grown.over_best.reading) == "0.40"  # tiny at 40 ends where grown does, at 100
    assert (grown.speedups["flops"].verdict, grown.over_best.verdict) == ("significant", "significantly worse")
    printed = (tmp_path / "out" / "compare.html").read_text()
    mixed = "the runs differ in precision (bf16: grown; fp32: base-100, base-200, base-400, small, tiny), "
    assert mixed in printed and mixed in capsys.readouterr().out
    assert "<td>0.40, significantly worse</td><td>significant</td>" in printed
    line = json.loads((tmp_path / "out" / "compare.json").read_text())[0]
    assert (line["method"], line["significant"], line["significant_over_best"]) == ("grown", True, False)
