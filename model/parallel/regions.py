"""The two regions of tensor parallelism, megatron-core's: what enters one is summed backward, what leaves it forward.

Import it only where tensors are cut: it takes a second or more.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _without_compiler() -> Iterator[None]:
    """While megatron-core (0.16.1) is imported: it decorates operators that nothing here uses with torch.compile, which
    loads torch's compiler into every rank and takes three times as long as all the rest."""
    compiler = torch.compile
    torch.compile = _as_they_are  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler


def _as_they_are(function: Any = None, **options: Any) -> Any:
    return _as_they_are if function is None else function


with _without_compiler(), warnings.catch_warnings():  # it misses Transformer Engine and apex, which nothing here needs
    warnings.simplefilter("ignore")
    from megatron.core.tensor_parallel.mappings import (
        copy_to_tensor_model_parallel_region,
        reduce_from_tensor_model_parallel_region,
    )

__all__ = ["copy_to_tensor_model_parallel_region", "reduce_from_tensor_model_parallel_region"]
