"""The verb `compare`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pretrain.cli.arguments import OutputFolder, Overrides, check_counts
from pretrain.settings.options import OptionalText


def compare(
    folders: Annotated[Positional[tuple[Path, ...]], arg(name="runs", metavar="RUN ...", help_behavior_hint="")] = (),
    /,
    recipes: OptionalText = "",
    seeds: int = 3,
    minutes: float = 60.0,
    overrides: Overrides = (),
    runs: Path = Path("runs"),
    nproc: int = 1,
    scale: str = "mini",
    baseline: OptionalText = "",
    out: OutputFolder = Path("compare"),
) -> None:
    """Compare finished runs: the cost of each method to reach a loss.

    The baseline is training the target shape from scratch to the same loss.

    Args:
        folders: Folders of finished runs: the target shape from scratch at several budgets, and the methods.
        recipes: Instead of folders: recipes to train first, separated by commas, each at its own budget or at those
            after it: mini@1000@2000@4000,stack-mini (steps; or hours: mini@0.5h). Finished runs are not repeated.
        seeds: Number of seeds for each recipe.
        minutes: Time limit for training. A run that is cut off saves itself and resumes next time.
        overrides: Override a value of every recipe, for example --set data.corpus=corpora/mine.
        runs: The folder that holds the folders of runs.
        nproc: Number of processes for each run.
        scale: A word for the size of the models, kept in the JSON.
        baseline: Names of the recipes to measure against, separated by commas. Defaults to those that train the
            target shape in one stage.
        out: Folder for page, picture (PNG, SVG, PDF), JSON and CSV.
    """
    from pretrain.compare.training import check_comparable, read_entries, train_missing
    from pretrain.compare.verb import compare as compare_runs
    from pretrain.runs.outputs import check_folder

    check_counts(seeds=[seeds], nproc=[nproc])
    check_folder("--output", out)
    if recipes:
        entries = read_entries(recipes)
        check_comparable(entries, overrides, nproc)
        folders = tuple(train_missing(entries, seeds, overrides, minutes, runs, nproc))
    compare_runs(folders, out, scale, baseline.split(",") if baseline else ())
