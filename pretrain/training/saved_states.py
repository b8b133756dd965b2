"""States that a run has saved under a name and that it still reads: damaged ones are made again."""

from pathlib import Path
from typing import Any

import torch.distributed as dist

from growth.operators.saved_state import INITIAL
from growth.state import TrainingState, fresh_state
from model.errors import UserError
from pretrain.checkpoint.files import find_damage
from pretrain.checkpoint.progress import Progress
from pretrain.checkpoint.store import CheckpointStore, restore_from_twin
from pretrain.data import Corpus
from pretrain.engine.agreement import raise_together, read_once, say_once
from pretrain.interop.continuing import continued
from pretrain.interop.importing import import_start
from pretrain.recipe import Run
from pretrain.runs.folder import RunFolder


def step_to_repeat(run: Run, progress: Progress, run_folder: RunFolder) -> int | None:
    """None if every state that is still read is intact, or could be copied from the checkpoint of its step. Else
    the step that saves it: the run must go back to a checkpoint before that one. Collective."""
    read = _read_later(run, progress)
    for stage in run.stages[: progress.stage + 1]:
        step = int(stage.end)
        if stage.keep not in read or run.unit != "steps" or step > progress.step:
            continue
        folder = run_folder.checkpoints / stage.keep
        damage = _damage(folder)
        if damage is None:
            continue
        if not restore_from_twin(run_folder.checkpoints, stage.keep, step, run_folder.start):
            say_once(f"{folder} is damaged: {damage}; the run goes back to a checkpoint from which it is made again")
            return step
        say_once(f"{folder} is damaged: {damage}; it is made again from the checkpoint of step {step:,}")
    return None


def first_state(run: Run, corpus: Corpus, trust_pickle: bool) -> tuple[TrainingState, Progress]:
    """What the run trains from at step 0, spread over the ranks, and where it begins to read: fresh weights, or what
    `start` names. Collective."""
    recipe, first = run.recipe, run.stages[0]
    if recipe.start is None:
        return fresh_state(first.config, recipe.seed, dist.get_rank(), dist.get_world_size()), Progress()
    if recipe.start_with == "state":
        return continued(Path(recipe.start), recipe, first.config, first.optimizer.chosen, corpus)
    return import_start(Path(recipe.start), first.config, recipe.seed, trust_pickle), Progress()


def restore_initial(
    run: Run, corpus: Corpus, progress: Progress, saved: dict[str, Any], run_folder: RunFolder, trust_pickle: bool
) -> None:
    """Makes the state of step 0 again if it is damaged and a later stage reads it. `saved`: what the checkpoint that
    the run resumes from says of the run. Collective."""
    folder = run_folder.checkpoints / INITIAL
    if INITIAL not in _read_later(run, progress) or (damage := _damage(folder)) is None:
        return
    say_once(f"{folder} is damaged: {damage}; it is made again")
    keep = run.recipe.checkpoint
    store = CheckpointStore(run_folder.checkpoints, keep.keep_last, keep.keep_every, False, run_folder.start)
    state, first = first_state(run, corpus, trust_pickle)
    store.save(0, state, {**saved, "progress": first.to_json(), "hooks": {}}, INITIAL)


def _read_later(run: Run, progress: Progress) -> set[str]:
    """The names of the states that stages to come read, and of the teacher of this one until it is let go."""
    this, *later = run.stages[progress.stage :]
    names = {name for stage in later for name in stage.saved_states_read}
    if this.align and this.align.weight_at(progress.step):
        names.add(this.align.teacher)
    return names


def _damage(folder: Path) -> str | None:
    return find_damage(folder) if read_once(folder.is_dir) else "it is missing"


def raise_lost(checkpoints: Path, step: int) -> None:
    """Raises Stop on all ranks: no checkpoint is left from which a saved state could be made again. Collective."""
    raise_together(
        UserError(
            f"the state that {checkpoints.parent} saved at step {step:,} is damaged, and no checkpoint before that "
            f"step is left; restore it in {checkpoints}, or start a new run under another --name"
        )
    )
