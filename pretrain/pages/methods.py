"""Writes docs/methods.md from the comments at the head of the method files: `python -m pretrain.pages.methods`.

A comment is a paragraph on the method, then the sources of its settings: `Paper:`, `Code:` (the authors', where it
gives more than the paper) and `Chosen:`.
"""

import re
from pathlib import Path

from pretrain.cost.savings import changes_shape, compare_costs
from pretrain.recipe.library import METHODS, SCALES
from pretrain.recipe.load import load_recipe
from pretrain.recipe.resolve import resolve
from pretrain.recipe.run import Run

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

INTRODUCTION = """\
Methods from the literature as recipes, each at every scale: `compound-base`, `compound-large`, `compound-mini`. At
`base` and `large` the settings come from the paper. Settings that the paper does not give are listed under *Chosen*,
and settings that we could not check in the source are called unconfirmed. At `mini` only the stages come from the
method and the scale sets everything else, so that methods can be compared.
This page is written by `python -m pretrain.pages.methods` from the comments in `pretrain/recipe/shipped/`."""

SAVINGS = """\
FLOPs of the target from scratch over FLOPs of the run, minus 1, at equal steps, rows and tokens. The first figure is
from the formula of `plan`, which also prints its assumptions; the second is the paper's, if it reports this measure.
These figures do not say whether both reach the same loss; `compare` measures that. The cost of a source model is
counted here but in no paper. Stages that a rule may end early count at full length."""

GROUPS = {
    "From scratch": ("lamb", "lans", "muon", "bucket-clip", "academic", "albert", "pld", "token-drop"),
    "Another objective first": ("clm-then-mlm",),
    "Objectives at different layers": ("hierarchical",),
    "Modern parts": ("rotary", "gated", "no-biases", "local"),
    "A teacher": ("let",),
    "Depth": ("stack", "stackbert", "gstack", "stack-auto", "zero-layer", "one-layer", "mslt", "incremental"),
    "Depth, width and length": ("compound", "espalier", "fast"),
    "CompoundGrow's comparison": ("pool", "truncate", "tile", "low-rank", "light-attention"),
    "Sharing, then unsharing": ("swe-f", "swe-a", "swe-m", "swe-units"),
    "A relaxed model first": ("core",),
    "Pruning": ("earlybert", "earlybert-carry-on", "earlybert-random"),
    "A smaller model first": (
        "bert2bert-fpi",
        "bert2bert-aki",
        "bert2bert",
        "msg",
        "lemon",
        "staged",
        "ligo",
        "multilevel",
    ),
}
"""Headings of the page, with their methods."""

NOTE = re.compile(r"(?:^|\s)(?=(?:Paper|Code|Chosen)(?: \([^)]*\))?: )")


def page() -> str:
    scales = [f"- `{file.stem}`: {text(file)}" for file in sorted(SCALES.glob("*.yaml"))]
    parts = ["# Methods", INTRODUCTION, "## Scales", "\n".join(scales), "## Savings", SAVINGS, savings()]
    for heading, methods in GROUPS.items():
        parts += [f"## {heading}", *(section(METHODS / f"{method}.yaml") for method in methods)]
    return "\n\n".join(parts) + "\n"


def savings() -> str:
    """A table row for each method whose stages differ in shape."""
    lines = ["| method | base | paper | large | paper |", "|---|---|---|---|---|"]
    for method in (method for methods in GROUPS.values() for method in methods):
        runs = [resolve(load_recipe(f"{method}-{scale}"), None, 8) for scale in ("base", "large")]
        if all(run.unit == "steps" and changes_shape(run) for run in runs):
            cells = [cell for run in runs for cell in (compare_costs(run).speedup, _published(run))]
            lines.append("| ".join([f"| `{method}` ", *map(_percent, cells)]) + "|")
    return "\n".join(lines)


def _published(run: Run) -> float | None:
    return run.recipe.paper.flop_speedup if run.recipe.paper else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}% "


def section(file: Path) -> str:
    """A method and the sources of its settings."""
    return "\n".join([f"**`{file.stem}`** {text(file)}", "", *(f"- {note}" for note in notes(file))]).strip()


def text(file: Path) -> str:
    """The first paragraph of the comment at the head of a file."""
    return " ".join(comment(file).split("\n\n")[0].split())


def notes(file: Path) -> list[str]:
    """The rest of the comment, split at `Paper`, `Code` and `Chosen`."""
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
