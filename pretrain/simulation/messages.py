"""Records what this rank sends, at the place where every collective of torch's, DeepSpeed's and megatron's passes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

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


class Sent(NamedTuple):
    """One message, as `pretrain/cost/time/messages.py` counts it."""

    kind: str
    num_ranks: int
    """That take part."""
    num_bytes: int
    """Of the whole tensor that is summed, put together or divided; of an all-to-all, what this rank sends, or receives
    if that is more."""


@contextmanager
def recorded() -> Iterator[list[Sent]]:
    """Inside, every collective of more than one rank is added to the list."""
    messages: list[Sent] = []
    with replaced({name: _recording(name, kind, messages) for name, kind in KINDS.items()}):
        yield messages


@contextmanager
def replaced(methods: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Inside, methods of all process groups are these, as far as this version of torch has them."""
    originals = {name: vars(dist.ProcessGroup)[name] for name in methods if name in vars(dist.ProcessGroup)}
    for name in originals:
        setattr(dist.ProcessGroup, name, methods[name])
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(dist.ProcessGroup, name, original)


def _recording(name: str, kind: str, messages: list[Sent]) -> Callable[..., Any]:
    original = getattr(dist.ProcessGroup, name, None)

    def call(group: dist.ProcessGroup, *arguments: Any, **options: Any) -> Any:
        if group.size() > 1:
            num_bytes = max((_num_bytes(each) for each in arguments), default=0)
            messages.append(Sent(kind, group.size(), num_bytes))
        assert original is not None
        return original(group, *arguments, **options)

    return call


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_num_bytes, value)) if isinstance(value, list | tuple) else 0
