"""The verb `profile`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from model.errors import UserError
from pretrain.cli.arguments import OptionalRecipe, OutputFolder, Overrides, check_counts
from pretrain.settings.options import OptionalFloat, OptionalInt, OptionalText


def profile(
    recipe: OptionalRecipe = "",
    /,
    overrides: Overrides = (),
    stage: int = 0,
    nproc: OptionalInt = None,
    steps: int = 10,
    lengths: OptionalText = "",
    sweep: OptionalText = "",
    memory_gib: OptionalFloat = None,
    scaling: OptionalText = "",
    measure_peak: bool = False,
    against: Literal["nothing", "huggingface", "modernbert"] = "nothing",
    calibrate: OptionalText = "",
    rounds: int = 5,
    json_file: Annotated[Path | None, arg(name="json", metavar="FILE", help_behavior_hint="")] = None,
    out: OutputFolder = Path("profiles"),
) -> None:
    """Measure where the time of a training step goes.

    Writes a page, JSON and a trace that opens in Perfetto. Needs no text: where the recipe's corpus does not exist,
    rows are made up. In a SLURM job it measures all nodes.

    Args:
        recipe: A recipe file, or the name of a recipe that ships with Espalier. Not needed with --against, --calibrate.
        overrides: Override a value of the recipe, for example --set batch.micro=16.
        stage: Index of the stage to measure, from 0.
        nproc: Number of processes on each node. Defaults to 1; in a SLURM job to one per GPU, or 2 without GPUs.
        steps: Number of steps to time, after warmup and before three steps under the profiler.
        lengths: Measure made-up rows of these lengths in tokens, equally often, such as 128,512. By default the rows
            are those of the recipe's corpus or, where it does not exist, full.
        sweep: Measure every combination of these, separated by commas: micro_batch, zero, tp, each with its range if
            you like: micro_batch=8:512 doubles from 8 until memory is full, at most to 512.
        memory_gib: What the processes of a node may hold together, by what plan predicts. Defaults to what is free on a
            machine without GPUs; a sweep leaves out what needs more.
        scaling: Measure strong and weak scaling on these numbers of processes, such as 1,2.
        measure_peak: Measure the device's peak matmul throughput and print each result as a share of it.
        against: huggingface compares our step with that of transformers' BERT, and prints the table of targets;
            modernbert with that of their ModernBERT.
        calibrate: Measure this machine for plan --on NAME, in two minutes or so on a CPU, and write machines/NAME.yaml,
            or the path that NAME is. With --nproc, that many processes work together; by default one per GPU or core.
        rounds: Rounds of the comparison; each round runs everything once.
        json_file: Also write the rows of the comparison to this file.
        out: Folder for the results.
    """
    from pretrain.runs.outputs import check_file, check_folder

    check_counts(steps=[steps], rounds=[rounds], nproc=[nproc])
    check_folder("--output", out)
    _check_together(sweep=sweep, scaling=scaling, against=against != "nothing", calibrate=calibrate)
    check_file("--json", json_file, "rows.json")
    if json_file and against == "nothing":
        raise UserError(f"--json is the file of --against; all else is in {out / 'profile.json'}")
    if calibrate:
        from pretrain.profile.calibrate.verb import calibrate as measure_machine

        print(f"wrote {measure_machine(calibrate, nproc)}; use it as ./launch.sh plan RECIPE --on {calibrate}")
        return
    if against == "huggingface":
        from pretrain.profile.table import profile_against_hugging_face

        profile_against_hugging_face(rounds, out, json_file)
        return
    if against == "modernbert":
        from pretrain.profile.modern import profile_against_modernbert

        profile_against_modernbert(rounds, json_file)
        return
    if not recipe:
        raise UserError("profile needs a recipe, or --against huggingface; for example: ./launch.sh profile base")
    from pretrain.profile.rows import with_rows
    from pretrain.profile.sweep import Sweep, read_axes
    from pretrain.profile.tables import breakdown_table, matmul_limit, measurement_table, print_table
    from pretrain.profile.verb import Profile, check_place, save

    check_place()
    axes = read_axes(sweep) if sweep else {}
    job = Profile(recipe, tuple(overrides), stage, nproc, steps, out, memory_gib=memory_gib)
    row_lengths = read_counts("--lengths", lengths, "lengths", "128,512") if lengths else []
    given, line = with_rows(recipe, job.overrides, stage, job.ranks(), row_lengths, out)
    if line:
        print(line, flush=True)
    job = replace(job, overrides=given)
    print(
        f"measuring stage {stage} of {recipe}: {steps} steps after a warmup, then {job.profiled} under the profiler",
        flush=True,
    )
    if axes:
        found = Sweep(job, axes).run()
    elif scaling:
        found = job.scaling(read_counts("--scaling", scaling))
    else:
        found = {f"stage {stage}": job.run(f"stage-{stage}")}
        print_table(breakdown_table(next(iter(found.values()))))
    limit = matmul_limit(next(iter(found.values())).precision) if measure_peak else None
    print_table(measurement_table(found, limit))
    save(found, out, f"{recipe}, stage {stage}")


def _check_together(**given: object) -> None:
    """Raises UserError for two options that each say what to measure."""
    chosen = [f"--{option}" for option, value in given.items() if value]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} do not go together; measure one after the other")


def read_counts(option: str, text: str, what: str = "numbers of processes", example: str = "1,2,4") -> list[int]:
    """`1,2,4` -> [1, 2, 4]. Raises UserError for anything but positive numbers."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise UserError(f"{option} {text!r} is not a list of {what}; write them as in {example}")
    return [int(word) for word in words]
