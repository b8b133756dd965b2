"""What must hold before a run resumes, and how its progress and hooks are set back to a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.checkpoint.files import readable
from pretrain.checkpoint.progress import Progress
from pretrain.engine.agreement import raise_together
from pretrain.recipe import Run
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.training.events import Hook


def restore(path: Path, saved: dict[str, Any], hooks: Sequence[Hook]) -> Progress:
    """How far the run was, with its hooks set back to that point. Collective."""
    progress, error = Progress(), None
    try:
        with readable(path):
            progress = Progress.from_json(saved["progress"])
            for hook in hooks:
                if hook.name in saved["hooks"]:
                    hook.restore(saved["hooks"][hook.name])
    except UserError as fault:
        error = fault
    raise_together(error)
    return progress


def lost_checkpoints(folder: RunFolder) -> UserError | None:
    """Set where the metrics tell of checkpoints that are no longer there: starting again would replace them."""
    if not folder.metrics.is_file():
        return None
    try:
        events = History.read(folder.path).events("checkpoint")
    except UserError as fault:
        return fault
    names = [event["name"] for event in events if str(event.get("name")).startswith("step-")]
    if not names:
        return None
    return UserError(
        f"{folder.checkpoints} has none of the checkpoints that {folder.metrics.name} tells of (the last is "
        f"{names[-1]}); restore one, give a new run another --name, or move the folder away"
    )


def other_ranks(run: Run, progress: Progress, saved: dict[str, Any], path: Path) -> UserError | None:
    """Set where the rest of the run depends on the number of data-parallel ranks, and the checkpoint is of another."""
    stage = run.stages[progress.stage]
    now, before = stage.data_parallel, saved.get("written_under", {}).get("data_parallel", stage.data_parallel)
    clips = any(each.clips_on_ranks for each in run.stages[progress.stage :])
    if now == before or not clips or run.recipe.faults.any_ranks:
        return None
    return UserError(
        f"checkpoint {path.name} is of {before} data-parallel ranks, now there are {now}: each clips the gradient of "
        f"its own rows (optimizer.clip_bucket_mb), so the run would become another; start as many ranks as before "
        f"({before * stage.tensor_parallel}), or allow that by faults.any_ranks: true"
    )
