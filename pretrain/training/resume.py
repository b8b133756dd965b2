"""What must hold before a run resumes, and how its progress and hooks are set back to a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.checkpoint.files import readable
from pretrain.checkpoint.progress import Progress
from pretrain.engine.agreement import raise_together
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
