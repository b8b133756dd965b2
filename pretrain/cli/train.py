"""The verb `train`: started by a user it checks the recipe and starts ranks; as one of the ranks it trains."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UserError
from pretrain.cli.arguments import Overrides, RecipeName, check_counts, read_nodes, read_span
from pretrain.launch import start_up
from pretrain.launch.check import run_check
from pretrain.launch.hosts import Hosts
from pretrain.launch.job import HOSTS
from pretrain.launch.rank import RECIPE, hand_on, is_rank
from pretrain.launch.slurm import say
from pretrain.launch.staging import staging_folder
from pretrain.launch.start import expected_ranks, is_first, start_ranks, train_arguments
from pretrain.launch.tolerance import Tolerance, is_asked, tell_launcher, told_by
from pretrain.runs.ending import begin_launch, end_launch
from pretrain.settings.options import OptionalInt, OptionalStr, OptionalText

if TYPE_CHECKING:
    from pretrain.recipe import Recipe


LONGEST_NAME = 200


def train(
    recipe: RecipeName,
    /,
    overrides: Overrides = (),
    name: OptionalStr = None,
    runs: Path = Path("runs"),
    nproc: OptionalInt = None,
    nodes: OptionalText = "",
    spare: int = 0,
    rdzv_endpoint: OptionalText = "",
    profile_steps: OptionalText = "",
    stage_environment: OptionalText = "",
    trust_pickle: bool = False,
    dry_run: bool = False,
    simulate_ranks: OptionalInt = None,
    rank: OptionalInt = None,
) -> int:
    """Train a recipe, or resume it from the latest checkpoint in its folder.

    Args:
        recipe: A recipe file, or the name of a recipe that ships with Espalier.
        overrides: Override a value of the recipe, for example --set stages.1.steps=200.
        name: The run's folder under --runs. Defaults to the recipe's name.
        runs: The folder that holds the folders of runs.
        nproc: Number of processes to start on each node. Defaults to one per GPU, or 2 without GPUs.
        nodes: Train on as many nodes of the SLURM job as there are from MIN to MAX, such as 4:16, while nodes come and
            go. Sets faults.min_nodes. Defaults to all. Without SLURM, the number of hosts.
        spare: Keep this many nodes of the SLURM job back until others fail.
        rdzv_endpoint: Without SLURM: HOST:PORT at which the hosts of the run meet, each with this same command. HOST is
            one of them, PORT is free there.
        profile_steps: Profile these steps, such as 100:110, into the run's folder: a page, JSON and a trace.
        stage_environment: Copy the environment into this folder of every node's own, such as /tmp, before the ranks of
            a SLURM job start: hundreds of ranks that import from a shared disk wait for it.
        trust_pickle: Read pickled weights to start from (DeepSpeed's) even if that may run code: trust their author.
        dry_run: Check everything, start nothing.
        simulate_ranks: Start nothing, but build here what one of this many ranks would build, and count what it would
            send. Needs neither the ranks nor a GPU.
        rank: With --simulate-ranks, the rank to simulate. Defaults to the first, the middle and the last.
    """
    if simulate_ranks is not None or rank is not None:
        return simulate_one(recipe, overrides, simulate_ranks, rank)
    span = read_span("--profile-steps", profile_steps)
    fewest, most = read_nodes(nodes)
    if fewest is not None:
        overrides = (*overrides, f"faults.min_nodes={fewest}")
    if is_rank():
        train_as_rank(recipe, overrides, name, runs, span, trust_pickle)
        return 0
    hosts = Hosts.of(rdzv_endpoint, fewest, most) if rdzv_endpoint else None
    if hosts and spare:
        raise UserError("--spare is for the nodes of a SLURM job; of hosts those beyond the MAX of --nodes are spare")
    if dry_run:
        num_ranks = expected_ranks(nproc, most, spare) * (hosts.fewest if hosts else 1)
        folder = check(recipe, overrides, name, runs, num_ranks, trust_pickle, joins=hosts is not None)
        if not is_asked():
            processes = f"{num_ranks} process{'es' * (num_ranks > 1)}"
            print(f"{recipe} would start on {processes} in {folder}: nothing is wrong; nothing was started")
        return 0
    stage_in = staging_folder(stage_environment)
    arguments = train_arguments(recipe, overrides, name, runs)
    if profile_steps:
        arguments += ["--profile-steps", profile_steps]
    given = [] if nproc is None else ["--nproc", str(nproc)]
    given += (["--nodes", nodes] if nodes else []) + (["--spare", str(spare)] if spare else [])
    if hosts:
        given += ["--rdzv-endpoint", rdzv_endpoint]
        os.environ[HOSTS] = hosts.endpoint
    begin_launch()
    if is_first():
        print(f"checking {recipe}", flush=True)
    mistake, tolerance = told_by(lambda: run_check([*arguments, *given, "--dry-run"]))
    if mistake:
        if is_first():
            tell_mistake(recipe, overrides, name, runs, mistake)
        return mistake
    hand_on(tolerance.recipe)
    tolerance = replace(tolerance, max_nodes=most, spare=spare)
    if is_first():
        print("starting processes", flush=True)

    def tell(code: int, is_requeued: bool) -> None:
        if tolerance.folder:
            end_launch(Path(tolerance.folder), tolerance.notify, code, is_requeued)

    return start_ranks(["pretrain", *arguments], nproc, tell, tolerance, hosts, stage_in)


def simulate_one(recipe: str, overrides: tuple[str, ...], num_ranks: int | None, rank: int | None) -> int:
    """`train --simulate-ranks`."""
    if num_ranks is None:
        raise UserError(f"--rank {rank} needs --simulate-ranks: how many there are")
    check_counts(simulate_ranks=[num_ranks])
    from pretrain.simulation.verb import simulate

    simulate(recipe, overrides, num_ranks, rank)
    return 0


def tell_mistake(recipe: str, overrides: tuple[str, ...], name: str | None, runs: Path, code: int) -> None:
    """Notifies of what the check has found, as far as the recipe can be read: else it says nobody whom to tell."""
    from pretrain.recipe import load_recipe

    with suppress(UserError):
        loaded = load_recipe(recipe, overrides)
        end_launch(folder_of(loaded, name, runs), loaded.faults.notify, code, False)


def check(
    recipe: str,
    overrides: tuple[str, ...],
    name: str | None,
    runs: Path,
    num_ranks: int,
    trust_pickle: bool,
    joins: bool,
) -> Path:
    """The run's folder. Raises UserError for whatever would keep the run from starting; writes nothing.

    `joins`: this host may join a run that others train.
    """
    from pretrain.recipe import load_recipe
    from pretrain.training.preflight import check_run

    loaded = load_recipe(recipe, overrides)
    folder, faults = folder_of(loaded, name, runs), loaded.faults
    check_run(loaded, num_ranks, folder, trust_pickle, joins)
    told = Tolerance(faults.detect_seconds, faults.min_nodes, faults.restarts, str(folder), faults.notify)
    tell_launcher(replace(told, recipe=loaded.model_dump_json(by_alias=True)))
    return folder


def train_as_rank(
    recipe: str,
    overrides: tuple[str, ...],
    name: str | None,
    runs: Path,
    span: tuple[int, int] | None,
    trust_pickle: bool,
) -> None:
    """Trains, as one process among others. Signals are heard before torch is loaded."""
    with start_up.importing():
        from pretrain.engine import signals
        from pretrain.recipe import load_recipe
        from pretrain.recipe.load import recipe_of

    given = os.environ.get(RECIPE)
    loaded = recipe_of(given) if given else load_recipe(recipe, overrides)
    folder = folder_of(loaded, name, runs)
    signals.listen(loaded.faults.signals)
    with start_up.importing():
        from pretrain.engine.distributed import process_group
        from pretrain.engine.idle import first_ranks
        from pretrain.recipe.ranks import idle_ranks, usable_ranks
        from pretrain.training.train import train as train_recipe

    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if is_first() and (line := idle_ranks(loaded, num_ranks)):
        say(line)
    with first_ranks(usable_ranks(loaded, num_ranks)) as is_used:
        if not is_used:
            return
        start_up.finished("imports")
        with process_group():
            start_up.finished("rendezvous")
            hooks = []
            if span:
                from pretrain.profile.hook import Profiler

                hooks.append(Profiler(*span, folder / "profile"))
            train_recipe(loaded, folder, hooks, trust_pickle)


def folder_of(recipe: "Recipe", name: str | None, runs: Path) -> Path:
    """Raises UserError for a name that leads out of `runs`, where others' files lie."""
    from model.errors import UserError

    chosen = recipe.name if name is None else name
    parts = chosen.split("/")
    if not all(part.strip(".") and len(part) <= LONGEST_NAME and part.isprintable() for part in parts):
        raise UserError(
            f"--name {chosen[:LONGEST_NAME]!r} is no name for a folder in {runs}; use letters, digits, _, . and -, at "
            f"most {LONGEST_NAME} of them"
        )
    return runs / chosen
