"""The verb `train`: from a recipe or a checkpoint to a Trainer, and back to a folder."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from growth.state import TrainingState
from pretrain.checkpoint import load_newest
from pretrain.checkpoint.memory import home_of
from pretrain.checkpoint.memory_load import belongs_to, load_from_memory
from pretrain.checkpoint.progress import Progress
from pretrain.checkpoint.vocabulary import other_vocabulary
from pretrain.data import Corpus, DataPosition
from pretrain.engine.agreement import raise_together, say_once
from pretrain.engine.compilation import compiles
from pretrain.engine.distributed import device
from pretrain.engine.exits import Stop
from pretrain.engine.fp8 import emulation_in_words
from pretrain.engine.nodes import show, survey
from pretrain.launch import start_up
from pretrain.recipe import Recipe, Run
from pretrain.recipe.decisions import decided
from pretrain.recipe.precision import precision_in_words
from pretrain.runs.folder import RunFolder
from pretrain.runs.rank_log import logged
from pretrain.training.events import Hook
from pretrain.training.hooks import make_hooks
from pretrain.training.hooks.journal import record_stop
from pretrain.training.hooks.rollbacks import Rollback, Rollbacks
from pretrain.training.mixing import DateOfTheHop, measure
from pretrain.training.preflight import check_run, check_shards
from pretrain.training.resume import lost_checkpoints, other_ranks, restore
from pretrain.training.saved_states import first_state, raise_lost, restore_initial, step_to_repeat
from pretrain.training.trainer import Trainer


def train(recipe: Recipe, folder: Path, extra_hooks: Sequence[Hook] = (), trust_pickle: bool = False) -> None:
    """Trains a recipe in this rank's process, from the folder's latest checkpoint if there is one. Collective.

    `trust_pickle`: whether pickled weights to start from may run code.
    """
    run, corpus, run_folder = check_run(recipe, dist.get_world_size(), folder, trust_pickle)
    for line in (corpus.note, precision_in_words(recipe, run.recipe), emulation_in_words(run.recipe.fp8)):
        if line:
            say_once(line)
    _show(f"opened {recipe.data.corpus}")
    dist.barrier()  # every rank has looked at the folder before rank 0 writes to it
    with run_folder.opened(run.recipe), logged(run_folder.logs, dist.get_rank(), run_folder.start.number):
        if _num_nodes() > 1:
            start_up.finished("corpus")
            nodes = survey(folder)
            if dist.get_rank() == 0:
                show(nodes)
            start_up.finished("node_check")
        check_shards(corpus, run_folder)
        start_up.finished("corpus")
        dated = measure(run, run_folder, _train_pilot)
        _fit(run, corpus, run_folder, extra_hooks, dated, trust_pickle)


def _train_pilot(recipe: Recipe, folder: Path, hook: Hook) -> None:
    """As `train`, in ranks that have surveyed their nodes and checked the corpus for the run itself. Collective."""
    run, corpus, run_folder = check_run(recipe, dist.get_world_size(), folder)
    dist.barrier()
    with run_folder.opened(run.recipe), logged(run_folder.logs, dist.get_rank(), run_folder.start.number):
        _fit(run, corpus, run_folder, [hook])


def _fit(
    run: Run,
    corpus: Corpus,
    folder: RunFolder,
    extra_hooks: Sequence[Hook],
    dated: DateOfTheHop | None = None,
    trust_pickle: bool = False,
) -> None:
    """Trains to the end, also after rollbacks. `dated`: what pilots have found."""
    rollbacks, position = Rollbacks(run.recipe.faults.roll_backs), None
    while True:
        trainer = _trainer(run, corpus, folder, rollbacks, position, extra_hooks, dated, trust_pickle)
        _show(f"building the engine{', with torch.compile' * compiles(run.recipe.compile, device())}")
        try:
            trainer.fit()
            break
        except Rollback as rollback:
            trainer.call("on_leave")
            position = rollback.position
        except Stop as stop:
            trainer.call("on_leave")
            record_stop(folder, trainer.progress.step, stop)
            raise
        finally:
            trainer.close()


def _newest(
    run: Run, folder: RunFolder, on_disk: bool, before: int | None
) -> tuple[Path, TrainingState, dict[str, Any]] | None:
    """The newest state of the run: in the memory of the nodes, if the recipe keeps it there, else on disk. `before`: of
    a step before this one, on disk."""
    if run.recipe.checkpoint.memory_every and not on_disk and before is None:
        belongs = partial(belongs_to, folder.leases, folder.checkpoints)
        found = load_from_memory(home_of(folder.path), belongs, _report)
        if found:
            say_once(f"resuming from the memory of the nodes: {found[0].name}")
            return found
    return load_newest(folder.checkpoints, _report, before)


def _report(line: str) -> None:
    print(f"espalier: {line}", file=sys.stderr)


def _show(line: str) -> None:
    """What happens before there are steps to watch."""
    if dist.get_rank() == 0:
        print(line, flush=True)


def _num_nodes() -> int:
    """As torchrun counts them; nodes need not have equally many ranks."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _trainer(
    run: Run,
    corpus: Corpus,
    folder: RunFolder,
    rollbacks: Rollbacks,
    position: DataPosition | None,
    extra_hooks: Sequence[Hook],
    dated: DateOfTheHop | None,
    trust_pickle: bool,
) -> Trainer:
    """A trainer at the folder's newest intact checkpoint, or at the start. It reads on from `position`, if given."""
    hooks = make_hooks(run.recipe, folder, rollbacks, [*extra_hooks, *([dated] if dated else [])])
    resumed = _resumed(run, corpus, folder, hooks, rollbacks.under_way, trust_pickle)
    state, progress = resumed or (None, Progress())
    if resumed is None:
        raise_together(lost_checkpoints(folder) if dist.get_rank() == 0 else None)
        if run.recipe.start is not None:
            state, progress = first_state(run, corpus, trust_pickle)
        if dated:
            dated.begin(run, progress)
    if dist.get_rank() == 0:
        folder.start.begin(progress.step)
    if position is not None:
        progress.position = position
    return Trainer(decided(run, progress.decisions), corpus, hooks, state, progress, folder.checkpoints)


def _resumed(
    run: Run, corpus: Corpus, folder: RunFolder, hooks: Sequence[Hook], on_disk: bool, trust_pickle: bool
) -> tuple[TrainingState, Progress] | None:
    """State and progress of the newest checkpoint from which the run can go on; None if it has none yet. Collective."""
    before: int | None = None
    while True:
        newest = _newest(run, folder, on_disk, before)
        if newest is None:
            if before is not None:
                raise_lost(folder.checkpoints, before)
            return None
        path, state, saved = newest
        raise_together(other_vocabulary(saved, corpus, path))
        progress = restore(path, saved, hooks)
        start_up.finished("checkpoint")
        reached = decided(run, progress.decisions)
        raise_together(other_ranks(reached, progress, saved, path))
        num_ranks = saved.get("written_under", {}).get("ranks", run.num_ranks)
        if num_ranks != run.num_ranks and run.has_dropout:
            say_once(f"{path.name} is of {num_ranks} ranks, now there are {run.num_ranks}: dropout draws other masks")
        before = step_to_repeat(reached, progress, folder)
        if before is None:
            restore_initial(reached, corpus, progress, saved, folder, trust_pickle)
            return state, progress
