"""Which checkpoints belong to a run that has been started several times.

A start that was frozen, or cut off, may finish a checkpoint after a newer start has begun to train, from an earlier
step. It is not part of what the newer one goes on with: readers pass over it.
"""

import json
from collections.abc import Callable
from pathlib import Path

from pretrain.checkpoint.files import INDEX
from pretrain.lease import LEASES, Lease, read_leases


def overtaken_by(checkpoint: Path) -> Lease | None:
    """The first start that is newer than the one which wrote this checkpoint of a step, and began before that step.

    None for those that count. `checkpoint` is a folder step-N among a run's checkpoints.
    """
    return overtaken(
        checkpoint.parents[1] / LEASES, int(checkpoint.name.removeprefix("step-")), lambda: start_of(checkpoint)
    )


def overtaken(leases: Path, step: int, writer: Callable[[], int | None]) -> Lease | None:
    """As `overtaken_by`, of a state of `step`; `writer` says which start wrote it, and is asked only if need be."""
    begun = [lease for lease in read_leases(leases) if lease.began_at is not None and lease.began_at < step]
    start = writer() if begun else None
    return None if start is None else next((lease for lease in begun if lease.start > start), None)


def holder_of(leases: Path, start: int) -> str:
    """Who made that start of the run; empty where it is not on record."""
    return next((lease.holder for lease in read_leases(leases) if lease.start == start), "")


def start_of(checkpoint: Path) -> int | None:
    """The number of the start that wrote it; 0 where its index says none, as before starts were numbered.

    None for a damaged index: the checkpoint is not passed over, so that whoever reads it names the damage.
    """
    try:
        return int(json.loads((checkpoint / INDEX).read_text("utf-8"))["run"].get("start", 0))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
