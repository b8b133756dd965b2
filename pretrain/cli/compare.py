"""The verb `compare`."""

from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from model.errors import UserError
from pretrain.cli.arguments import OutputFolder, Overrides, check_counts
from pretrain.settings.options import OptionalFloat, OptionalText

LADDER = "small"


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
    speed: OptionalFloat = None,
    dry_run: bool = False,
    retry_failed: bool = False,
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
        minutes: Time limit for training, with --scale small of all starts together. A run that is cut off saves itself
            and resumes next time.
        overrides: Override a value of every recipe, for example --set data.corpus=corpora/mine.
        runs: The folder that holds the folders of runs.
        nproc: Number of processes for each run.
        scale: A word for the size of the models, kept in the JSON. Without folders and recipes, small packs --minutes
            with runs at width 64: a ladder of 1, 2, 4 and 8 layers, then the best of them, half of it and one late hop
            at equal FLOPs, more seeds, larger budgets. Run the same command again to continue.
        speed: FLOP/s of this machine, from which --scale small takes its budgets. By default it is measured.
        dry_run: With --scale small: list the runs and which of them fit, start nothing.
        retry_failed: With --scale small: train runs again that have failed before, and others of their models.
        baseline: Names of the recipes to measure against, separated by commas. Defaults to those that train the
            target shape in one stage.
        out: Folder for page, pictures (PNG, SVG, PDF), JSON and CSV, and for the results of --scale small.
    """
    from pretrain.runs.outputs import check_folder

    check_counts(seeds=[seeds], nproc=[nproc])
    check_folder("--output", out)
    names = baseline.split(",") if baseline else []
    packs = scale == LADDER and not folders and not recipes
    if (dry_run or retry_failed or speed is not None) and not packs:
        option = "dry-run" if dry_run else "retry-failed" if retry_failed else "speed"
        raise UserError(
            f"--{option} goes with --scale {LADDER}, which trains runs of its own; leave "
            "out folders and --recipes, or this option"
        )
    if packs:
        from pretrain.compare.packed import Packed, open_results
        from pretrain.compare.small import Small
        from pretrain.profile.trial import trial_flops_per_second

        small, measure = Small(overrides, nproc), None if dry_run else partial(trial_flops_per_second, here=True)
        results = open_results(small, seeds, minutes, speed, out / "results.jsonl", runs, measure)
        packed = Packed(small, seeds, minutes, results, retry_failed)
        if dry_run:
            packed.print_queue()
            return
        folders = tuple(packed.train())
        names = names or packed.baseline
    if recipes:
        from pretrain.compare.training import check_comparable, read_entries, train_missing

        entries = read_entries(recipes)
        check_comparable(entries, overrides, nproc)
        folders = tuple(train_missing(entries, seeds, overrides, minutes, runs, nproc))
    from pretrain.compare.verb import compare as compare_runs

    compare_runs(folders, out, scale, names)
