"""`deterministic: true`: on a GPU the same bits every time, by kernels that sum in a fixed order. A CPU's always do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FOR_LIBRARIES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TORCHINDUCTOR_DETERMINISTIC": "1"}
"""Environment variables: cuBLAS keeps to eight buffers of 4 MiB, without which it may sum in another order (says its
manual), and torch's compiler does not choose kernels by their time. Both look once, when they are loaded."""


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Inside, torch takes deterministic kernels, if `asked`; an operator that has none warns."""
    if not asked:
        yield
        return
    for name, value in FOR_LIBRARIES.items():
        os.environ.setdefault(name, value)
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # nothing is read that has not been written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        memory.fill_uninitialized_memory = fills
