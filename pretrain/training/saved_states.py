"""States that a run has saved under a name and that stages to come read: damaged ones are made again."""

from pathlib import Path

from model.errors import UserError
from pretrain.checkpoint.files import find_damage
from pretrain.checkpoint.progress import Progress
from pretrain.checkpoint.store import restore_from_twin
from pretrain.engine.agreement import raise_together, say_once
from pretrain.recipe import Run
from pretrain.runs.folder import RunFolder


def step_to_repeat(run: Run, progress: Progress, run_folder: RunFolder) -> int | None:
    """None if every state that later stages read is intact, or could be copied from the checkpoint of its step. Else
    the step that saves it: the run must go back to a checkpoint before that one. Collective."""
    read = {
        name for stage in run.stages[progress.stage + 1 :] for each in stage.grow for name in each.saved_states_read
    }
    for stage in run.stages[: progress.stage + 1]:
        step = int(stage.end)
        if stage.keep not in read or run.unit != "steps" or step > progress.step:
            continue
        folder = run_folder.checkpoints / stage.keep
        damage = find_damage(folder) if folder.is_dir() else "it is missing"
        if damage is None:
            continue
        if not restore_from_twin(run_folder.checkpoints, stage.keep, step, run_folder.start):
            say_once(f"{folder} is damaged: {damage}; the run goes back to a checkpoint from which it is made again")
            return step
        say_once(f"{folder} is damaged: {damage}; it is made again from the checkpoint of step {step:,}")
    return None


def raise_lost(checkpoints: Path, step: int) -> None:
    """Raises Stop on all ranks: no checkpoint is left from which a saved state could be made again. Collective."""
    raise_together(
        UserError(
            f"the state that {checkpoints.parent} saved at step {step:,} is damaged, and no checkpoint before that "
            f"step is left; restore it in {checkpoints}, or start a new run under another --name"
        )
    )
