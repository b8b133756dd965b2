"""`train --simulate-ranks N`: whether a run would start on N ranks, and what it would send, without them."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from model.errors import UserError
from model.parameters import parameter_table
from pretrain.checkpoint.parts import divided
from pretrain.cost.memory import FP32_BYTES
from pretrain.cost.time.machine import load_machine, machine_names
from pretrain.cost.time.tables import gib_of
from pretrain.data import Corpus
from pretrain.interop.teacher import check_folder_teachers, with_folder_teachers
from pretrain.recipe import Recipe, ResolvedStage, Run, load_recipe, resolve
from pretrain.recipe.checks.saved_states import check_saved_states
from pretrain.recipe.checks.stage_rules import check_lengths
from pretrain.recipe.ranks import idle_ranks, usable_ranks


def simulate(recipe: str, overrides: tuple[str, ...], num_ranks: int, rank: int | None) -> None:
    """Prints what `rank`, or the first, the middle and the last one, would go through. Writes nothing, trains nothing.

    Raises UserError for what does not divide, and whatever else a recipe can be wrong in.
    """
    run, corpus = resolved(load_recipe(recipe, overrides), num_ranks)
    if rank is not None and not 0 <= rank < run.num_ranks:
        raise UserError(f"--rank {rank} is none of the {run.num_ranks} ranks; give 0 to {run.num_ranks - 1}")
    last = run.num_ranks - 1
    sample = sorted({0, run.num_ranks // 2, last}) if rank is None else [rank]
    if line := idle_ranks(run.recipe, num_ranks):
        print(line)
    if corpus is None:
        print(f"corpus {run.recipe.data.corpus} does not exist yet: no rows are dealt")
    os.environ["DS_ACCELERATOR"] = "cpu"  # the ranks are not here, so their GPUs are not either
    from pretrain.simulation.group import only_rank
    from pretrain.simulation.rank import SimulatedRank
    from pretrain.simulation.table import simulation_table

    events = {}
    for each in sample:
        print(f"simulating rank {each} of {run.num_ranks:,}", flush=True)
        with only_rank(each, run.num_ranks):
            events[each] = list(SimulatedRank(run, corpus, on_cpu=False).events())
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(simulation_table(run, events))
    print(*lines(run), sep="\n")


def resolved(recipe: Recipe, num_ranks: int) -> tuple[Run, Corpus | None]:
    if recipe.precision == "auto":
        recipe = recipe.model_copy(update={"precision": "bf16"})  # what the ranks' GPUs would take
    if recipe.precision == "fp16":
        raise UserError("precision fp16 is not simulated; --set precision=bf16 has the same messages and bytes")
    corpus = Corpus.open(recipe.data.corpus) if Path(recipe.data.corpus).exists() else None
    run = resolve(recipe, corpus.vocab_size if corpus else None, usable_ranks(recipe, num_ranks))
    run = with_folder_teachers(run)
    check_lengths(run)
    check_folder_teachers(run, corpus.tokenizer_hash if corpus else None)
    check_saved_states(run)
    return run, corpus


def lines(run: Run) -> Iterator[str]:
    """What a GPU has to hold, and the disk."""
    machines = []
    for name in machine_names():
        with suppress(UserError):  # of the user's own, one that cannot be read does not matter here
            machines.append(load_machine(name))
    for stage in run.stages:
        needed = gib_of(run, stage, on_cpu=False)
        fitting = [each.name for each in machines if each.memory_gib and each.memory_gib >= needed]
        yield (
            f"{stage.name}: a rank takes {needed:.3g} GiB of its GPU, which {', '.join(fitting)} has"
            if fitting
            else f"{stage.name}: a rank takes {needed:.3g} GiB of its GPU, more than any machine that is known: "
            "set a smaller batch.micro, or a higher ZeRO stage"
        )
        sizes = [size / 1e6 for size in file_bytes(stage, run.num_ranks).values()]
        yield (
            f"{stage.name}: files of a checkpoint: {len(sizes)}, the largest {max(sizes):,.3g} of {sum(sizes):,.4g} MB"
        )


def file_bytes(stage: ResolvedStage, num_ranks: int) -> Counter[int]:
    """Of each file of a checkpoint, by the rank that writes it."""
    table, moments_of = parameter_table(stage.config), stage.optimizer.chosen.group_rules.moments_of
    sizes: Counter[int] = Counter()
    for piece, writer in divided(stage.config, num_ranks).items():
        spec = table[piece.name]
        row_bytes = FP32_BYTES * (1 + len(moments_of(spec))) * spec.numel // spec.shape[0]
        sizes[writer] += piece.rows * row_bytes
    return sizes
