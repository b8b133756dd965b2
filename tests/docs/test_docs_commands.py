"""Every command in the docs does what it says: it is executed, or parsed where it needs more than any machine has."""

import functools
import importlib.util
import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import tyro
import yaml

from pretrain.__main__ import main
from pretrain.cli import VERBS, verb_function
from pretrain.launch.hosts import Hosts
from pretrain.launch.outcome import ExitCode
from pretrain.recipe import load_recipe, resolve
from pretrain.recipe.checks.stage_rules import check_lengths
from pretrain.runs.folder import RunFolder
from pretrain.training.events import GrowthEvent, StepResult
from tests.support.documented import HOME, PAGES, Command, commands, execute_all, make_place
from tests.support.run_on_disk import generic_weights, make_corpus, make_run

pytestmark = pytest.mark.timeout(900)  # many processes start, and machines differ

HANDLED_BY_LAUNCH_SH = ("test", "check")

ALL = [command for page in PAGES for command in commands(page)]
OF_A_VERB = [command for command in ALL if command.words and command.words[0] not in HANDLED_BY_LAUNCH_SH]
EXECUTED = {command.line: command for command in OF_A_VERB if not command.needs}


def name(command: Command) -> str:
    return f"{command.page.stem}: {command.line}"


def parse(words: list[str]) -> str:
    """The verb that the command line makes of these words, without doing it."""
    parsed = []

    def only_parsed(verb):
        @functools.wraps(verb)
        def record(*positional, **named):
            parsed.append(verb.__name__.replace("_", "-"))

        return record

    verbs = {verb: only_parsed(verb_function(verb)) for verb in VERBS}
    tyro.extras.subcommand_cli_from_dict(verbs, args=words)
    return parsed[0]


@pytest.mark.parametrize("command", OF_A_VERB, ids=name)
def test_the_command_line_takes_it(command):
    assert parse(command.words) == command.words[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    make_place(folder, OF_A_VERB)
    return folder


@pytest.fixture(scope="module")
def executed(place) -> dict[str, tuple[int, str]]:
    return execute_all(place, list(EXECUTED.values()))


@pytest.mark.parametrize("command", EXECUTED.values(), ids=name)
def test_it_is_executed(command, executed):
    code, output = executed[command.line]
    assert code == 0, output


def test_what_the_pages_say_comes_out(place, executed):
    assert (place / "runs/faster/report.html").is_file()
    assert len(json.loads((place / "results/squad2.json").read_text())["results"]) == 18  # the grid's settings
    assert (place / "profiles/profile.html").is_file()


def test_the_saved_models_are_opened_as_the_page_shows(place, executed, monkeypatch):
    monkeypatch.chdir(place)
    page = (HOME / "docs" / "using-a-model.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})


def test_the_pages_have_commands():
    assert len(EXECUTED) > 20
    assert {command.words[0] for command in EXECUTED.values()} >= {
        *("prepare", "plan", "train", "evaluate", "fill", "profile", "export", "report", "finetune", "doctor")
    }
    needs = {command.needs for command in ALL if command.needs}
    machines = {"a GPU", "8 GPUs", "6 GB of memory", "a quiet machine", "several hosts"}
    before = {"a text", "those runs", "the file of the line above"}
    assert needs <= machines | before | {"a network", "a cluster", "a network and a GPU", "hours"}


def test_the_tests_that_pages_name_exist():
    """As in `./launch.sh test FILE -k WORD`."""
    named = [command.words[1:] for command in ALL if command.words[:1] == ["test"] and "-k" in command.words]
    assert named
    for file, _, word in named:
        assert re.search(rf"def test_\w*{word}", (HOME / file).read_text())


def test_the_modules_that_pages_start_exist():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    modules = set(re.findall(r"-m ((?:pretrain|tests)[\w.]+)", text))
    assert modules
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


def test_the_packages_to_add_are_those_that_espalier_is_tested_with():
    page = (HOME / "docs" / "your-own-environment.md").read_text(encoding="utf-8")
    pinned = set(re.findall(r"[\w-]+==[\d.]+", page))
    assert pinned
    assert all(f'"{package}"' in (HOME / "pyproject.toml").read_text() for package in pinned)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```bash" in page.read_text(encoding="utf-8")], ids=lambda page: page.stem
)
def test_scripts_are_shell(page):
    for script in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_scripts_of_jobs_have_no_faults_of_the_shell():
    scripts = [
        script
        for page in PAGES
        for script in re.findall(r"```bash\n(#!.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert sum("apptainer" in script or "--container-image" in script for script in scripts) == 2
    for script in scripts:
        done = subprocess.run(["shellcheck", "-"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_file_formats_names_what_a_run_writes():
    page = (HOME / "docs" / "file-formats.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([\w.]+)`", page))
    assert {field.name for field in fields(StepResult)} <= words
    assert {field.name for field in fields(GrowthEvent)} - {"stage", "step"} <= words


@pytest.mark.parametrize("page", ["file-formats", "getting-started"])
def test_the_pages_name_every_file_of_a_run(page):
    text = (HOME / "docs" / f"{page}.md").read_text(encoding="utf-8")
    folder = RunFolder(Path("runs/NAME"))
    held = {path.name for path in vars(folder).values() if isinstance(path, Path) and path != folder.path}
    assert len(held) == 15
    quoted, listed = re.findall(r"`([\w.-]+)/?`", text), re.findall(r"^ {4,}([\w.-]+)/?(?!\S)", text, re.MULTILINE)
    assert held - {*quoted, *listed} == set()


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


def test_the_pods_of_kubernetes_meet_at_the_first_of_them():
    page = (HOME / "docs" / "multi-node.md").read_text("utf-8")
    (text,) = re.findall(r"```yaml\n(apiVersion:.*?)```", page, re.DOTALL)
    service, job = yaml.safe_load_all(text)
    name, pods = job["metadata"]["name"], job["spec"]
    pod = pods["template"]["spec"]
    assert service["spec"] == {
        "clusterIP": "None",  # the service stands for its pods, each by its name
        "publishNotReadyAddresses": True,
        "selector": {"job-name": name},
    }
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    launcher, *words = container["command"]
    assert launcher == "./launch.sh" and parse(words) == "train"
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--nodes"] == f"1:{pods['completions']}" and pods["parallelism"] == pods["completions"]
    hosts = Hosts.of(options["--rdzv-endpoint"], 1, 4)
    assert hosts.name == f"{name}-0.{pod['subdomain']}"
    assert pods["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [ExitCode.MISTAKE]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_recipes_of_results_are_valid(tmp_path):
    pages = HOME.glob("docs/results/*.md")
    recipes = [
        text for page in pages for text in re.findall(r"```yaml\n(name:.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]
    assert recipes
    for text in recipes:
        (tmp_path / "recipe.yaml").write_text(text)
        check_lengths(resolve(load_recipe(tmp_path / "recipe.yaml"), 8192, 1))
