"""Records what this rank sends, at the place where every collective of torch's, DeepSpeed's and megatron's passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch.distributed as dist
from torch import Tensor

KINDS = {
    "allreduce": "all-reduce",
    "reduce": "reduce",
    "broadcast": "broadcast",
    "allgather": "all-gather",
    "_allgather_base": "all-gather",
    "all_gather_single": "all-gather",
    "all_gather_single_coalesced": "all-gather",
    "allgather_into_tensor_coalesced": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "_reduce_scatter_base": "reduce-scatter",
    "reduce_scatter_single": "reduce-scatter",
    "all_to_all_single": "all-to-all",
    "alltoall_base": "all-to-all",
    "barrier": "barrier",
}
"""The methods of a process group, and what they are called."""

Message = tuple[str, int, int]
"""Kind, number of ranks that take part, and bytes: of the whole tensor that is summed or put together."""


@contextmanager
def recorded() -> Iterator[list[Message]]:
    """Inside, every collective of more than one rank is added to the list."""
    messages: list[Message] = []
    patches = [
        patch.object(dist.ProcessGroup, method, _recording(method, kind, messages))
        for method, kind in KINDS.items()
        if hasattr(dist.ProcessGroup, method)
    ]
    for each in patches:
        each.start()
    try:
        yield messages
    finally:
        for each in patches:
            each.stop()


def _recording(method: str, kind: str, messages: list[Message]) -> Any:
    original = getattr(dist.ProcessGroup, method)

    def call(group: dist.ProcessGroup, *arguments: Any, **options: Any) -> Any:
        if group.size() > 1:
            messages.append((kind, group.size(), max((_num_bytes(each) for each in arguments), default=0)))
        return original(group, *arguments, **options)

    return call


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_num_bytes, value)) if isinstance(value, list | tuple) else 0
