"""Checkpoints: the logical training state on disk, the same for every ZeRO stage, parallel layout and world size.

    checkpoints/
        latest                      the name of the newest complete checkpoint, written last
        step-00000400/
            index.json              shape, step of each parameter and the files it is in, and the run (see RunState)
            rank-00000.safetensors  NAME/weight, NAME/exp_avg, NAME/exp_avg_sq of what that rank wrote
            SHA256SUMS              a checksum for every file, as `sha256sum -c SHA256SUMS` reads it

No pickle anywhere: opening a checkpoint runs no code. `files.py` writes and reads one such folder, `parts.py` says who
writes what, `store.py` keeps the checkpoints of a run, `progress.py` says how far a run has come. The room `interop`
turns other formats into a state.
"""

from pretrain.checkpoint.files import load_checkpoint, read_index
from pretrain.checkpoint.store import CheckpointStore, find_checkpoint, load_newest

__all__ = [
    "CheckpointStore",
    "find_checkpoint",
    "load_checkpoint",
    "load_newest",
    "read_index",
]
