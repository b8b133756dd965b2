"""Which checkpoints belong to a run that has been started several times.

A start that was frozen, or cut off, may finish a checkpoint after a newer start has begun to train, from an earlier
step. It is not part of what the newer one goes on with: readers pass over it.
"""

import json
from pathlib import Path

from pretrain.checkpoint.files import INDEX
from pretrain.lease import LEASES, Lease, read_leases


def overtaken_by(checkpoint: Path) -> Lease | None:
    """The first start that is newer than the one which wrote this checkpoint of a step, and began before that step.

    None for those that count. `checkpoint` is a folder step-N among a run's checkpoints.
    """
    step = int(checkpoint.name.removeprefix("step-"))
    begun = [
        lease
        for lease in read_leases(checkpoint.parents[1] / LEASES)
        if lease.began_at is not None and lease.began_at < step
    ]
    writer = start_of(checkpoint) if begun else 0
    return next((lease for lease in begun if lease.start > writer), None)


def start_of(checkpoint: Path) -> int:
    """The number of the start that wrote it; 0 where its index says none, as before starts were numbered."""
    try:
        return int(json.loads((checkpoint / INDEX).read_text("utf-8"))["run"].get("start", 0))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0
