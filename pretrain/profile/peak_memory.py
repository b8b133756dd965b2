"""The most memory this process has held: allocated on a GPU, resident on a CPU."""

import re
from pathlib import Path

import torch

from pretrain.engine.distributed import computes_on_gpu

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """What the process holds now, libraries included; 0 where a GPU is measured, whose allocator knows no libraries."""
    return 0 if computes_on_gpu() else _status("VmRSS")


def peak_bytes() -> int:
    """The most since the last reset. (getrusage's figure starts from that of the process which forked this one.)"""
    return torch.cuda.max_memory_allocated() if computes_on_gpu() else _status("VmHWM")


def reset_peak() -> None:
    """From here on. Where the system does not allow it, the peak stays that of the whole process."""
    if computes_on_gpu():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        CLEAR.write_text("5")
    except OSError:
        return


def _status(key: str) -> int:
    kib = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text("utf-8"), re.MULTILINE)
    assert kib is not None, key
    return int(kib[1]) * 1024
