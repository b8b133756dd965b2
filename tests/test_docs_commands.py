"""Every command in the docs is one that launch.sh takes; those that need no run before them are executed."""

import functools
import json
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import tyro

from pretrain.__main__ import VERBS, main
from pretrain.hooks.base import GrowthEvent, StepResult
from pretrain.recipe import load_recipe, resolve
from tests.run_on_disk import generic_weights, make_corpus, make_run

HOME = Path(__file__).parent.parent
PAGES = sorted([*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), *HOME.glob("ds_configs/*.md")])
HANDLED_BY_LAUNCH_SH = ("demo", "test")


def commands(page: Path) -> list[str]:
    """The lines of code blocks that start launch.sh, without comments; continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```(?:bash|sh)?\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    lines = [re.sub(r" \[[A-Z]+\]", "", line).partition(" #")[0].partition("&&")[0].strip() for line in lines]
    return [line for line in lines if "launch.sh" in line and not line.startswith(("espalier:", "#"))]


ALL = [(page, command) for page in PAGES for command in commands(page)]


def verb_and_arguments(command: str) -> list[str]:
    words = shlex.split(command)
    start = next(index for index, word in enumerate(words) if word.endswith("launch.sh"))
    words = words[start + 1 :]
    return words[1:] if words[:1] == ["--here"] else words


def parse(words: list[str]) -> dict:
    """What the command line makes of a verb's arguments, without doing it."""
    parsed = {}

    def only_parsed(verb):
        @functools.wraps(verb)
        def record(*positional, **named):
            parsed["verb"] = verb.__name__

        return record

    verbs = {name: only_parsed(verb) for name, verb in VERBS.items()}
    tyro.extras.subcommand_cli_from_dict(verbs, args=[word for word in words if word != "--help"])
    return parsed


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{page.stem}: {command}" for page, command in ALL])
def test_the_command_line_takes_it(page, command):
    words = verb_and_arguments(command)
    if not words or words[0] in HANDLED_BY_LAUNCH_SH or words[1:] == ["--help"] or words == ["--help"]:
        return
    if words[0] == "train":  # --nproc is torchrun's, and launch.sh passes on the rest
        words = [word for word in words if word != "--nproc" and not word.isdecimal()]
    assert parse(words)["verb"] == words[0]


def test_the_pages_have_commands():
    assert len(ALL) > 20
    assert {verb_and_arguments(command)[0] for _, command in ALL if verb_and_arguments(command)} >= {
        *("prepare", "plan", "train", "evaluate", "fill", "export", "report", "finetune", "doctor")
    }


PLANS = sorted({command for _, command in ALL if verb_and_arguments(command)[:1] == ["plan"]})


@pytest.mark.parametrize("command", [plan for plan in PLANS if ".yaml" not in plan])
def test_plans_of_recipes_that_ship_run(command, capsys):
    assert main(verb_and_arguments(command)) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```bash" in page.read_text(encoding="utf-8")], ids=lambda page: page.stem
)
def test_scripts_are_shell(page):
    for script in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_file_formats_names_what_a_run_writes():
    page = (HOME / "docs" / "file-formats.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([\w.]+)`", page))
    assert {field.name for field in fields(StepResult)} <= words
    assert {field.name for field in fields(GrowthEvent)} - {"stage", "step"} <= words


def test_the_reader_of_the_page_on_file_formats_reads_a_checkpoint(tmp_path):
    config = make_run(tmp_path / "run", make_corpus(tmp_path / "small"))
    page = (HOME / "docs" / "file-formats.md").read_text(encoding="utf-8")
    scope: dict = {}
    exec(*re.findall(r"```python\n(.*?)```", page, re.DOTALL), scope)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000040"
    name = "blocks.1.attention.query.weight"
    assert torch.equal(torch.from_numpy(scope["read"](checkpoint, name)), generic_weights(config)[name])
    keys = json.loads((checkpoint / "index.json").read_text()).keys()
    assert keys <= set(re.findall(r"`([\w.]+?)(?:\.\w+)?`", page))


def test_the_costs_on_the_page_on_bert_large_are_those_of_plan(capsys):
    page = (HOME / "docs" / "bert-large.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d.]+) G \| ([\d.e+]+) \| (\d+) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for recipe, gigatokens, flops, gpu_hours in rows:
        assert main(["plan", recipe, "--nproc", "64"]) == 0
        assert re.search(rf"total .* {re.escape(flops)}", capsys.readouterr().out)
        assert round(float(flops) / 156e12 / 3600) == int(gpu_hours)
        stages = resolve(load_recipe(recipe), None, 64).stages
        tokens = sum(stage.length * stage.global_batch * stage.sequence for stage in stages)
        assert f"{tokens / 1e9:.1f}" == gigatokens


def test_the_proof_in_numbers_on_the_page_on_growth_holds():
    page = (HOME / "docs" / "growth.md").read_text(encoding="utf-8")
    exec(*re.findall(r"```python\n(.*?)```", page, re.DOTALL), {})


def test_recipes_of_results_are_valid(tmp_path):
    pages = HOME.glob("docs/results/*.md")
    recipes = [
        text for page in pages for text in re.findall(r"```yaml\n(name:.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]
    assert recipes
    for text in recipes:
        (tmp_path / "recipe.yaml").write_text(text)
        resolve(load_recipe(tmp_path / "recipe.yaml"), 8192, 1)
