"""The verb `profile`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from model.errors import UserError
from pretrain.cli.arguments import OptionalRecipe, Overrides, check_counts
from pretrain.settings.options import OptionalText


def profile(
    recipe: OptionalRecipe = "",
    /,
    overrides: Overrides = (),
    stage: int = 0,
    nproc: int = 1,
    steps: int = 10,
    sweep: OptionalText = "",
    scaling: OptionalText = "",
    measure_peak: bool = False,
    against: Literal["nothing", "huggingface"] = "nothing",
    rounds: int = 5,
    json_file: Annotated[Path | None, arg(name="json", metavar="FILE", help_behavior_hint="")] = None,
    out: Path = Path("profiles"),
) -> None:
    """Measure where the time of a training step goes.

    Writes a page, JSON and a trace that opens in Perfetto.

    Args:
        recipe: A recipe file, or the name of a recipe that ships with Espalier. Not needed with --against.
        overrides: Override a value of the recipe, for example --set batch.micro=16.
        stage: Index of the stage to measure, from 0.
        nproc: Number of processes.
        steps: Number of steps to time, after warmup and before three steps under the profiler.
        sweep: Measure every combination of these, separated by commas: micro_batch, zero, tp.
        scaling: Measure strong and weak scaling on these numbers of processes, such as 1,2.
        measure_peak: Measure the device's peak matmul throughput and print each result as a share of it.
        against: huggingface compares our step with that of transformers, and prints the table of targets.
        rounds: Rounds of the comparison; each round runs everything once.
        json_file: Also write the rows of the comparison to this file.
        out: Folder for the results.
    """
    from pretrain.runs.outputs import check_file, check_folder

    check_counts(steps=[steps], rounds=[rounds], nproc=[nproc])
    check_folder("--out", out)
    check_file("--json", json_file, "rows.json")
    if against == "huggingface":
        from pretrain.profile.table import profile_against_hugging_face

        profile_against_hugging_face(rounds, out, json_file)
        return
    if not recipe:
        raise UserError("profile needs a recipe, or --against huggingface; for example: ./launch.sh profile base")
    from pretrain.profile.verb import Profile, matmul_limit, print_breakdown, print_measurements, save

    job = Profile(recipe, tuple(overrides), stage, nproc, steps, out)
    if sweep:
        found = job.sweep(sweep.split(","))
    elif scaling:
        found = job.scaling(read_counts("--scaling", scaling))
    else:
        found = {f"stage {stage}": job.run(f"stage-{stage}")}
        print_breakdown(next(iter(found.values())))
    limit = matmul_limit(next(iter(found.values())).precision) if measure_peak else None
    print_measurements(found, limit)
    save(found, out, f"{recipe}, stage {stage}")


def read_counts(option: str, text: str) -> list[int]:
    """`1,2,4` -> [1, 2, 4]. Raises UserError for anything but positive numbers."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise UserError(f"{option} {text!r} is not a list of numbers of processes; write them as in 1,2,4")
    return [int(word) for word in words]
