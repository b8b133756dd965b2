"""Writes docs/methods.md from the comments that head the method files: `python -m pretrain.pages.methods`.

A comment is a paragraph on the method, then what is known of it: `Paper:`, `Code:` (the authors', where it says more
than the paper) and `Chosen:`.
"""

import re
from pathlib import Path

from pretrain.cost.savings import saves, saving
from pretrain.recipe.library import METHODS, SCALES
from pretrain.recipe.load import load_recipe
from pretrain.recipe.resolve import resolve
from pretrain.recipe.run import Run

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

INTRODUCTION = """\
The methods of the literature as recipes, each for every scale: `compound-base`, `compound-large`, `compound-mini`. At
`base` and `large` the settings are the paper's; what it does not say is chosen here and named as such, and
what we could not check in the source is called unconfirmed. At `mini` only the stages are the method's, and everything
else is the scale's, so that methods can be compared.
This page is written by `python -m pretrain.pages.methods` from the comments in `pretrain/recipe/shipped/`."""

SAVINGS = """\
Target from scratch over this run, minus 1, in FLOPs at equal steps, rows and tokens: by the formula of `plan`, which
also prints what it assumes, and as the papers report it where they report just that. Whether the loss is the same at
the end is not in these figures; `compare` measures it. The cost of a source model is counted here and in no paper; that
a rule may end a stage early is left out."""

GROUPS = {
    "From scratch": ("lamb", "lans", "academic", "albert", "pld"),
    "Depth": ("stack", "stackbert", "gstack", "stack-auto", "mslt"),
    "Depth, width and length": ("compound", "espalier", "fast"),
    "What CompoundGrow compares": ("pool", "truncate", "tile", "low-rank", "light-attention"),
    "Sharing, then not": ("swe-f", "swe-a", "swe-m", "swe-units"),
    "A relaxed model first": ("core",),
    "Pruning": ("earlybert", "earlybert-carry-on", "earlybert-random"),
    "A smaller model first": ("bert2bert-fpi", "bert2bert-aki", "bert2bert", "msg", "lemon", "staged", "multilevel"),
}
"""Headings of the page, and the methods below each."""

NOTE = re.compile(r"(?:^|\s)(?=(?:Paper|Code|Chosen)(?: \([^)]*\))?: )")


def page() -> str:
    scales = [f"- `{file.stem}`: {text(file)}" for file in sorted(SCALES.glob("*.yaml"))]
    parts = ["# Methods", INTRODUCTION, "## Scales", "\n".join(scales), "## What they save", SAVINGS, savings()]
    for heading, methods in GROUPS.items():
        parts += [f"## {heading}", *(section(METHODS / f"{method}.yaml") for method in methods)]
    return "\n\n".join(parts) + "\n"


def savings() -> str:
    """A row for each method that costs less than its target."""
    lines = ["| method | base | paper | large | paper |", "|---|---|---|---|---|"]
    for method in (method for methods in GROUPS.values() for method in methods):
        runs = [resolve(load_recipe(f"{method}-{scale}"), None, 8) for scale in ("base", "large")]
        if all(run.unit == "steps" and saves(run) for run in runs):
            cells = [cell for run in runs for cell in (saving(run).speedup, _published(run))]
            lines.append("| ".join([f"| `{method}` ", *map(_percent, cells)]) + "|")
    return "\n".join(lines)


def _published(run: Run) -> float | None:
    return run.recipe.paper.flop_speedup if run.recipe.paper else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}% "


def section(file: Path) -> str:
    """What the method is, and where its settings come from."""
    return "\n".join([f"**`{file.stem}`** {text(file)}", "", *(f"- {note}" for note in notes(file))]).strip()


def text(file: Path) -> str:
    """The first paragraph of the comment that heads a file."""
    return " ".join(comment(file).split("\n\n")[0].split())


def notes(file: Path) -> list[str]:
    """What the comment says after its first paragraph, by `Paper`, `Code` and `Chosen`."""
    _, _, rest = comment(file).partition("\n\n")
    return [note for note in NOTE.split(" ".join(rest.split())) if note]


def comment(file: Path) -> str:
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].strip())
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
