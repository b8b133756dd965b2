"""What the cost model says of a run on a machine, for `plan`. No torch."""

from pathlib import Path

from rich.console import Console

from model.errors import UserError
from pretrain.cost.time.machine import Machine
from pretrain.cost.time.run import run_time
from pretrain.cost.time.sweep import over_layouts, over_nodes, read_sweep, sweep_table
from pretrain.cost.time.tables import expected_error, print_times, time_lines
from pretrain.data import Corpus
from pretrain.interop.teacher import with_folder_teachers
from pretrain.recipe import Recipe, Run, resolve
from pretrain.runs.forecast import Speed
from pretrain.runs.planned import check_planned
from pretrain.runs.submissions import read_limit, submission_lines

FORMATS = (".png", ".svg", ".pdf")


def print_prediction(run: Run, machine: Machine, corpus: Corpus | None, limit: str) -> Speed:
    """`limit`: the time limit of a job, as SLURM writes it; or nothing. Returns the speed that it predicts."""
    seconds = read_limit(limit) if limit else None
    time = run_time(run, machine, segment_length(run.recipe, corpus))
    print_times(time)
    size = None
    if corpus:
        files = (file for directory in corpus.weights for file in directory.iterdir())
        size = sum(file.stat().st_size for file in files if file.is_file())
    print(*time_lines(time, size), *submission_lines(time, seconds), sep="\n")
    flops = sum(each.num_steps * each.step.flops for each in time.stages)
    return Speed(flops / time.seconds, Path(machine.name))


def print_sweep(
    recipe: Recipe,
    machine: Machine,
    text: str,
    nodes: int,
    ranks: int,
    picture: Path | None,
    trust_pickle: bool = False,
) -> None:
    """`text`: what is varied; the rest is as the recipe, `nodes` and `ranks` of each say. `picture`: a file for it.
    `trust_pickle`: whether pickled weights to start from may run code."""
    numbers = read_sweep(text)
    if picture:
        check_picture(picture)
        if numbers is None:
            raise UserError(f"--plot draws numbers of nodes; write --sweep nodes=1,2,4,8 instead of --sweep {text}")
    recipe = with_precision_of(machine, recipe)
    corpus = Corpus.open(recipe.data.corpus) if Path(recipe.data.corpus).exists() else None

    def resolved(num_ranks: int) -> Run:
        return with_folder_teachers(resolve(recipe, corpus.vocab_size if corpus else None, num_ranks))

    segment = segment_length(recipe, corpus)
    if numbers is None:
        choices, lines = over_layouts(resolved(nodes * ranks), machine, segment)
    else:
        choices, lines = over_nodes(resolved, machine, ranks, numbers, segment)
    if not choices:
        raise UserError(f"--sweep {text}: nothing fits. {' '.join(lines)}")
    check_planned(choices[0].time.run, corpus, trust_pickle)
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(sweep_table(choices))
    print(*lines, *expected_error(machine), sep="\n")
    if picture:
        from pretrain.runs.scaling import plot_scaling

        plot_scaling(choices, f"{recipe.name} on {machine.name}", picture)
        print(f"drawn: {picture}")


def check_picture(picture: Path) -> None:
    """Raises UserError where it cannot be written."""
    if picture.suffix not in FORMATS or not picture.parent.is_dir():
        raise UserError(
            f"--plot {picture} cannot be written; name a file in a folder that exists, of {', '.join(FORMATS)}"
        )


def with_precision_of(machine: Machine, recipe: Recipe) -> Recipe:
    """`precision: auto` is what `machine` is best at, not this one."""
    if recipe.precision != "auto":
        return recipe
    return recipe.model_copy(update={"precision": "bf16" if "bf16" in machine.arithmetic else "fp32"})


def segment_length(recipe: Recipe, corpus: Corpus | None) -> float | None:
    """Tokens of the segment that a token of packed rows is in, on the average; None: as long as its row.

    Documents differ in length as much as exponentially distributed ones: a token's own has twice their mean.
    """
    if corpus is None or not recipe.data.pack:
        return None
    splits = [manifest["splits"]["train"] for manifest in corpus.manifests]
    documents = sum(split["num_documents"] for split in splits)
    return 2 * sum(split["num_tokens"] for split in splits) / documents if documents else None
