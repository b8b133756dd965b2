"""The verb `plan`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from model.errors import UserError
from pretrain.cli.arguments import OptionalRecipe, Overrides, check_counts
from pretrain.settings.options import OptionalFloat, OptionalInt, OptionalPath, OptionalText


def plan(
    recipe: OptionalRecipe = "",
    /,
    overrides: Overrides = (),
    nproc: OptionalInt = None,
    suggest: OptionalText = "",
    hours: OptionalFloat = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    on: OptionalText = "",
    nodes: OptionalInt = None,
    time: OptionalText = "",
    sweep: OptionalText = "",
    plot: OptionalPath = None,
    trust_pickle: bool = False,
) -> None:
    """Print what a recipe will do and what it costs. Trains nothing.

    Shapes, parameters, FLOPs, bytes on each rank, and the learning rate, stage by stage; with --on, hours and money.
    Or, with --suggest, a recipe.

    Args:
        recipe: A recipe file, or the name of a recipe that ships with Espalier. Not needed with --suggest.
        overrides: Override a value of the recipe, for example --set stages.1.steps=200.
        nproc: Number of processes to plan for. Defaults to 1; with --suggest to one per GPU, or 2 without. With --on,
            on each node, by default all that the machine has.
        suggest: Suggest a recipe for this text: its folder, a prepared corpus, or a size such as 50MB. Needs --hours.
        hours: How long the machine is yours.
        device: What each process will compute on, which decides the memory it needs. By default what this machine has;
            on a login node give gpu.
        on: Predict the time on this machine: a100-80gb, h100, h200, b200, one that profile --calibrate has measured, or
            the path of such a file.
        nodes: Number of nodes of that machine. Defaults to 1.
        time: The time limit of a job, such as 24:00:00, for the number of submissions.
        sweep: Instead of one plan, compare: nodes=1,2,4,8 those numbers of nodes, layout every ZeRO stage, tensor
            parallelism and micro-batch that fits. The fastest comes first.
        plot: With --sweep nodes=..., draw the scaling into this file: .png, .svg or .pdf.
        trust_pickle: Read pickled weights to start from (DeepSpeed's) even if that may run code: trust their author.
    """
    check_counts(nproc=[nproc], nodes=[nodes])
    if suggest:
        print(*_suggestion(suggest, hours, nproc), sep="\n")
        return
    if not recipe:
        raise UserError("plan needs a recipe, or --suggest; for example: ./launch.sh plan --suggest 50MB --hours 3")
    if plot and not sweep:
        raise UserError(f"--plot {plot} needs --sweep: the numbers of nodes, for example --sweep nodes=1,2,4,8")
    if not on and (nodes or time or sweep):
        option = "nodes" if nodes else "time" if time else "sweep"
        raise UserError(f"--{option} needs --on: the machine, for example --on h100")
    from pretrain.cost.plan import print_plan
    from pretrain.cost.time.machine import load_machine
    from pretrain.data import Corpus
    from pretrain.interop.teacher import with_folder_teachers
    from pretrain.launch.gpus import count_gpus
    from pretrain.recipe import load_recipe, resolve
    from pretrain.recipe.precision import precision_in_words
    from pretrain.recipe.ranks import idle_ranks, usable_ranks
    from pretrain.runs.forecast import forecast_lines, known_speed
    from pretrain.runs.lead_time import has_slurm, lead_lines, measured
    from pretrain.runs.planned import check_planned, start_of
    from pretrain.runs.prediction import print_prediction, print_sweep, with_precision_of

    machine = load_machine(on) if on else None
    loaded = load_recipe(recipe, overrides)
    if machine and sweep:
        print_sweep(loaded, machine, sweep, nodes or 1, nproc or machine.ranks, plot, trust_pickle)
        return
    if machine:
        loaded, nproc = with_precision_of(machine, loaded), (nodes or 1) * (nproc or machine.ranks)
    nproc = nproc or 1
    corpus = Corpus.open(loaded.data.corpus) if Path(loaded.data.corpus).exists() else None
    run = with_folder_teachers(resolve(loaded, corpus.vocab_size if corpus else None, usable_ranks(loaded, nproc)))
    check_planned(run, corpus, trust_pickle)
    found = count_gpus() == 0 if device == "auto" else device == "cpu"
    print_plan(run, on_cpu=machine.on_cpu if machine else found)
    if line := precision_in_words(loaded, run.recipe):
        print(line)
    speed = None if machine else known_speed(Path("runs"), loaded.name)
    if machine:
        speed = print_prediction(run, machine, corpus, time)
    print(*forecast_lines(run, corpus, speed), sep="\n")
    if line := idle_ranks(loaded, nproc):
        print(line)
    for line in lead_lines(measured(Path("runs", loaded.name)) if has_slurm() else None, loaded.faults.signals):
        print(line)
    if (start := start_of(run)) and not start.exists():
        print(f"start {start} does not exist yet: it was not checked")
    if corpus is None:
        print(f"corpus {loaded.data.corpus} does not exist yet: planned with the vocabulary of the recipe, or BERT's")


def _suggestion(text: str, hours: float | None, nproc: int | None) -> Iterator[str]:
    """The speed is that of an earlier run in runs/, else that of a short trial."""
    if hours is None or not hours > 0:
        raise UserError("--suggest needs --hours: how long the machine is yours, for example --hours 3")
    from pretrain.launch.gpus import count_gpus
    from pretrain.launch.slurm import Job
    from pretrain.launch.start import expected_ranks
    from pretrain.runs.forecast import Speed, known_speed
    from pretrain.runs.suggest import BY_THE_CLOCK, Text, suggest, suggestion_lines

    given, has_gpus = Text.of(text), count_gpus() > 0
    num_ranks, recipe = expected_ranks(nproc), BY_THE_CLOCK[count_gpus() > 0]
    speed = known_speed(Path("runs"), recipe)
    where = f"as {speed.run} reached" if speed else "a trial of some steps, just now"
    if speed is None:
        from pretrain.profile.trial import trial_flops_per_second

        print(f"measuring {recipe} for some steps: no run in runs/ tells how fast this machine is", flush=True)
        on_a_node = nproc if Job.from_environment() else num_ranks
        speed = Speed(trial_flops_per_second(recipe, ("data.corpus=made-up",), on_a_node), Path())
    found = suggest(given, hours, num_ranks, has_gpus, speed.flops_per_second)
    yield from suggestion_lines(given, found, speed, where, nproc)
