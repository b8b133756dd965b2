"""Code from outside: found by file, folder, module and entry point; in every process of a run; faults in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from growth.operators import OPERATORS
from pretrain.recipe import load_recipe
from pretrain.recipe.library import read_values
from pretrain.training.train import train
from tests.support.home import HOME
from tests.support.page_code import blocks
from tests.support.plugins import forget_plugins
from tests.support.tiny import losses, tiny_corpus, train_until, write_recipe
from tests.support.workers import pool

OPERATOR = blocks("adding-an-operator.md")[0].text
HOOK = blocks("adding-a-hook.md")[0].text


def in_new_process(folder: Path, code: str, *paths: Path) -> str:
    """What the code prints, run in `folder` by a Python that has loaded no plugin yet."""
    path = os.pathsep.join(map(str, (HOME, *paths)))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


FAULTS = {
    "fails.py": ("x = 1\ny = x / 0\n", r"plugin fails.py fails: fails.py, line 2: ZeroDivisionError: division by zero"),
    "syntax.py": ("def f(:\n", "plugin syntax.py fails: SyntaxError: invalid syntax (syntax.py, line 1)"),
    "exits.py": ("raise SystemExit(3)\n", "plugin exits.py fails: exits.py, line 1: SystemExit: 3"),
    "imports.py": ("import nothing_of_this_name\n", "plugin imports.py fails: imports.py, line 1: No module named"),
    "empty.py": ("class Mine: pass\n", "plugin empty.py: it defines no class over one of ours, such as Operator"),
    "taken.py": (OPERATOR.replace('"drop_layers"', '"stack"'), "plugin taken.py: an operator stack is there already"),
    "rule.py": (
        "from pretrain.stage_rules.loss import Loss\nclass Mine(Loss): pass\n",
        "plugin rule.py: a rule until.loss is there already; give Mine another key",
    ),
    "optimizer.py": (
        "from pretrain.optim.adamw import AdamWOptions\nclass Mine(AdamWOptions):\n  name = 'my'\n  compile: int = 1\n",
        "plugin optimizer.py: Mine.compile: optimizer.compile is there already; give it another name",
    ),
    "variant.py": (
        "from model.shape import Shape\nclass Mine(Shape):\n    slimming: bool = False\n",
        "plugin variant.py: Mine.slimming: model.slimming is there already; give it another name",
    ),
    "ending.py": (
        "from pretrain.data.text.sources.base import FileFormat\nclass Mine(FileFormat):\n    ending = '.txt'\n",
        "plugin ending.py: files that end in .txt are read already; give Mine another ending",
    ),
    "gone.py": (None, "plugin gone.py: it does not exist; name a file, a folder with __init__.py, or a module"),
    "no_such_module": (None, "plugin no_such_module is not a module Python can find; install its package"),
    "json": (None, "plugin json: it defines no class over one of ours"),
}
TRY_EACH = """
import pretrain.data.text.reading
from model.errors import UserError
from pretrain.recipe import load_recipe
for name in NAMES:
    try:
        load_recipe("mini", ["plugins=" + name])
    except UserError as error:
        print(error)
    else:
        print("nothing is wrong with", name)
"""


def test_what_is_wrong_with_a_plugin_is_one_line_that_names_it(tmp_path):
    for name, (text, _) in FAULTS.items():
        if text is not None:
            (tmp_path / name).write_text(text, "utf-8")
    printed = in_new_process(tmp_path, f"NAMES = {list(FAULTS)}\n{TRY_EACH}").splitlines()
    assert len(printed) == len(FAULTS)
    for line, (_, expected) in zip(printed, FAULTS.values(), strict=True):
        assert expected in line


def test_an_installed_package_needs_no_line_in_a_recipe(tmp_path):
    for package, text in (("my_growth", OPERATOR), ("your_growth", "1 / 0\n")):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", "utf-8")
        (info / "entry_points.txt").write_text(f"[espalier.plugins]\nlayers = {package}\n", "utf-8")
        (tmp_path / f"{package}.py").write_text(text, "utf-8")
    printed = in_new_process(tmp_path, "NAMES = ['my_growth']\n" + TRY_EACH, tmp_path)
    assert (
        printed == "plugin layers of your_growth fails: your_growth.py, line 1: ZeroDivisionError: division by zero\n"
    )
    (tmp_path / "your_growth.py").write_text(HOOK, "utf-8")
    code = "from pretrain.recipe import load_recipe; load_recipe('mini'); from growth.operators import OPERATORS; "
    assert in_new_process(tmp_path, code + "print('drop_layers' in OPERATORS)", tmp_path) == "True\n"


def test_a_file_lies_next_to_the_recipe_that_names_it_also_below_another(tmp_path):
    below, above = tmp_path / "below", tmp_path / "above"
    for folder, text in ((below, OPERATOR), (above, HOOK)):
        folder.mkdir()
        (folder / "mine.py").write_text(text, "utf-8")
    (below / "one.yaml").write_text("extends: mini\nplugins: mine.py\n", "utf-8")
    (above / "two.yaml").write_text(f"extends: {below}/one.yaml\nplugins: [mine.py]\n", "utf-8")
    assert read_values(str(above / "two.yaml"))["plugins"] == [str(below / "mine.py"), str(above / "mine.py")]


# ---- a run ----


def in_a_run(recipe: Path, folder: Path, leave_at: int | None) -> list[str]:
    """On every rank: trains with the recipe's plugins, and forgets them. Returns the operators that it knew."""
    try:
        loaded = load_recipe(recipe)
        train_until(loaded, folder, leave_at) if leave_at else train(loaded, folder)
        return list(OPERATORS)
    finally:
        forget_plugins()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    corpus = tiny_corpus(folder).path
    (folder / "drop_layers.py").write_text(OPERATOR, "utf-8")
    (folder / "spikes.py").write_text(HOOK, "utf-8")
    stages = [
        {"name": "deep", "steps": 6},
        {"name": "shallow", "steps": 6, "grow": "drop_layers", "shape": {"layers": 1}},
    ]
    model = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)
    changes = {"model": model, "stages": stages, "plugins": ["drop_layers.py", "spikes.py"]}
    changes["hooks"] = {"loss_spikes": {"factor": 0.5}}
    return write_recipe(folder / "recipe.yaml", corpus, **changes)


def test_a_run_resumes_with_its_plugins_and_keeps_their_code(recipe, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for operators in pool(1).run(in_a_run, recipe, whole, None):
        assert "drop_layers" in operators
    pool(1).run(in_a_run, recipe, parts, 8)
    kept = parts / "plugins" / "drop_layers.py"
    assert kept.read_text("utf-8") == OPERATOR
    saved = json.loads((parts / "checkpoints" / "step-00000008" / "index.json").read_text("utf-8"))
    assert saved["run"]["hooks"]["loss_spikes"]["mean"] > 0
    (recipe.parent / "drop_layers.py").write_text(OPERATOR + "\n# a note\n", "utf-8")
    pool(1).run(in_a_run, recipe, parts, None)
    assert losses(parts) == losses(whole)
    assert kept.read_text("utf-8") == OPERATOR
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {line["step"] for line in lines if line.get("event") == "loss_spike"} == set(range(1, 13))
