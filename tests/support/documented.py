"""The commands of the pages, and a folder with small things under all the names that they use.

Commands that a page marks with `# needs ...` (GPUs, a network, a cluster, a quiet machine) and those of SLURM scripts
are only parsed.
All others are executed in that folder, by one process, in the order of the pages:

- runs, recipes, texts and GLUE's and SQuAD's files are small ones of the same names (`make_place`)
- `SMALLER` is added to a command of that verb, and an option that comes twice counts as it comes last; `INSTEAD`
  replaces numbers of steps, and a sweep by its first row
- training starts from scratch each time, as rank 0 of 1: starting ranks is tested in `tests/pretrain/launch`
"""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import yaml

from pretrain.use.export import export
from tests.support.benchmark_files import write_squad, write_sst2, write_tsv
from tests.support.home import HOME
from tests.support.run_on_disk import make_corpus, make_run

PAGES = sorted([*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), *HOME.glob("ds_configs/*.md")])

NARROW = {"hidden": 32, "heads": 2, "ffn": 32}
SMALL_STEPS = ["batch.global=32", "sequence=128", "data.sentence_pairs=none", "validation.rows=8"]
TINY = [*(f"model.{field}={value}" for field, value in NARROW.items()), "model.layers=1", *SMALL_STEPS]
SMALLER = {
    "prepare": ["--num-workers", "1"],
    "finetune": ["--seeds", "1"],
    "profile": ["--steps=1", *(f"--set={value}" for value in TINY)],
}
INSTEAD = {"100:110": "3:4", "30:60": "3:4", "micro_batch=16:32": "micro_batch=16:16"}


@dataclass(frozen=True)
class Command:
    page: Path
    line: str
    """As the page writes it, without its comment."""
    needs: str
    """What it needs and this machine may lack: GPUs, a network, a cluster; empty: nothing."""

    @property
    def words(self) -> list[str]:
        """What follows launch.sh."""
        words = shlex.split(self.line)
        words = words[next(place for place, word in enumerate(words) if word.endswith("launch.sh")) + 1 :]
        return words[1:] if words[:1] == ["--here"] else words

    @property
    def arguments(self) -> list[str]:
        """Of `python -m pretrain`, made smaller, and without the number of ranks."""
        verb, *rest = self.words
        text = shlex.join(rest)
        for large, small in INSTEAD.items():
            text = text.replace(large, small)
        if verb == "train":
            text = re.sub(r"--nproc \d+", "", text)
        return [verb, *shlex.split(text), *SMALLER.get(verb, [])]


def commands(page: Path) -> list[Command]:
    """Every line of a page's code that starts launch.sh; continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    scripts = [script for language, script in fences if language in ("", "bash", "sh")]
    found = [(line, "#SBATCH" in script) for script in scripts for line in script.splitlines()]
    found += [(line, False) for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]
    return [
        Command(page, command, _needs(command, comment, is_of_slurm))
        for line, is_of_slurm in found
        for command, _, comment in [_without_form(line).partition(" #")]
        if re.match(r"[^#:]*launch\.sh\b", command)
    ]


def _without_form(line: str) -> str:
    """`sbatch [OPTIONS] launch.sh train RECIPE [ARGS] && exit`: what may be left out is."""
    return re.sub(r" \[(OPTIONS|ARGS)\]", "", line).partition("&&")[0].strip()


def _needs(command: str, comment: str, is_of_slurm: bool) -> str:
    if is_of_slurm or command.startswith(("sbatch", "srun")):
        return "a cluster"
    said = re.search(r"\bneeds (.+)", comment)
    return said[1] if said else ""


def make_place(folder: Path, commands: list[Command]) -> None:
    """Fills `folder` with what the commands name."""
    (folder / "ds_configs").symlink_to(HOME / "ds_configs")
    (folder / "my-texts").mkdir()
    (folder / "corpora").mkdir()
    corpus = make_corpus(folder / "corpora" / "small")
    (folder / "corpora" / "wiki-books").symlink_to("small")
    (folder / "corpora" / "small.txt").rename(folder / "my-texts" / "text.txt")
    recipes = {"my.yaml": my_recipe(), **recipes_of_results()}
    runs = {word for command in commands for word in command.words if re.fullmatch(r"runs/[\w-]+", word)}
    for run in runs - {f"runs/{recipe['name']}" for recipe in recipes.values()}:
        make_run(folder / run, corpus)
    export(folder / "runs" / "demo", folder / "all-MiniLM-L6-v2")
    make_run(folder / "bert-run", corpus, layers=12, **NARROW, max_positions=512)
    export(folder / "bert-run", folder / "bert")
    for name, recipe in recipes.items():
        model = {**recipe.get("model", {}), **NARROW}
        data = {"corpus": "corpora/small", "sentence_pairs": "none"}
        (folder / name).write_text(yaml.safe_dump({**recipe, "model": model, "data": data}))
    write_sst2(folder / "glue", 24)
    write_tsv(folder / "glue" / "CoLA", train="s\t1\t\tA cat.\ns\t0\t*\tCat a.\n" * 8, dev="s\t1\t\tA dog.\n" * 4)
    columns = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    write_tsv(folder / "glue" / "MRPC", train=columns + "1\t1\t2\tA cat.\tThe cat.\n0\t1\t2\tA cat.\tA dog.\n" * 12)
    reviews = "".join(f"A {word} film {n}.,{word}\n" for n in range(12) for word in ("good", "bad"))
    (folder / "reviews.txt").write_text("A good film.\nA bad film, near the old river.\n")
    (folder / "reviews.csv").write_text("review,sentiment\n" + reviews)
    sequences = ("M" + "LAGVSERTIDPKQNFYMHWC"[number % 20 :] + "K" * (number // 20) for number in range(400))
    (folder / "proteins.fasta").write_text("".join(f">{each}\n{each}\n" for each in sequences))
    write_squad(folder / "squad", "v2.0", unanswerable=True)


def my_recipe() -> dict:
    """The one on the page for starters."""
    page = (HOME / "docs" / "getting-started.md").read_text("utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    steps = {"hours": None, "steps": 4}
    few = {
        "model": {"layers": 4},
        "hours": None,
        "stages": {"quarter": steps, "half": steps, "full": steps},
        "schedule": {"warmup": 2},
        "sequence": 32,
        "batch": {"global": 8},
        "validation": {"rows": 8},
    }
    return {"name": "NAME", **yaml.safe_load(text), **few}


def recipes_of_results() -> dict[str, dict]:
    """The recipes that the pages of results show, for a second instead of their hours."""
    texts = (re.findall(r"```yaml\n(name:.*?)```", page.read_text("utf-8"), re.DOTALL) for page in PAGES)
    recipes = [yaml.safe_load(text) for found in texts for text in found]
    few = {"hours": 5e-4, "batch": {"global": 8, "micro": 8}, "validation": {"rows": 8}}
    return {f"{recipe['name']}.yaml": recipe | few for recipe in recipes if "hours" in recipe}


def execute_all(folder: Path, commands: list[Command]) -> dict[str, tuple[int, str]]:
    """Exit code and output of each line, all in one separate process, which imports torch only once."""
    jobs = {command.line: command.arguments for command in commands}
    environment = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    python = [sys.executable, "-m", __name__]
    done = subprocess.run(
        python, cwd=folder, env=environment, input=json.dumps(jobs), stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _main() -> None:
    from pretrain.__main__ import main
    from pretrain.engine import distributed
    from pretrain.launch import rank

    distributed._leave_together = lambda: None  # DeepSpeed remembers the groups of its first start
    os.environ |= {rank.PROCESS: str(os.getpid()), "RANK": "0"}  # `train` trains here
    results = {}
    for line, arguments in json.load(sys.stdin).items():
        if arguments[:2] == ["train", "my.yaml"] and "--name" not in arguments:
            shutil.rmtree("runs/NAME", ignore_errors=True)
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
            try:
                code = main(arguments)
            except SystemExit as end:
                code = end.code
            except Exception:
                code = 1
                traceback.print_exc()
        results[line] = code, output.getvalue()
    print(json.dumps(results))


if __name__ == "__main__":
    _main()
