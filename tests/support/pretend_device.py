"""A device that is not the CPU, on any machine: its tensors hold real numbers, and mistakes of place show.

Inside `pretend_device()` this process computes on "meta", as DeepSpeed's accelerator says, and what is there lives in
wrappers around tensors of the CPU. As with a GPU, an operator that mixes the two places raises, and so does a
collective over a tensor of the host, which NCCL would refuse. What exists already stays on the host, where optimizer
offload leaves it. Gradients are not followed. The context gives the list of bytes of all copies between the two places.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
COLLECTIVES = (
    *("all_reduce", "broadcast", "all_gather", "send", "recv"),
    *("all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single"),
)


_crossed: list[int] = []


class OnDevice(Tensor):
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, *arguments: Any, **options: Any) -> str:
        return f"on device: {self.held}"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return run(function, arguments, options or {})


class Placing(TorchDispatchMode):
    """Also sees what has no tensor among its arguments, such as `torch.zeros(3, device=...)`."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return run(function, arguments, options or {})


def run(function: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """One operator of torch's."""
    tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    strangers = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
    assert copies or not ours or not strangers, f"{function} takes tensors of the device and of the host"

    asked = options.get("device")
    goes_to_device = torch.device(asked) == DEVICE if asked is not None else bool(ours)
    if function is torch.ops.aten.copy_.default:
        goes_to_device = isinstance(arguments[0], OnDevice)
        crosses = len(ours) == 1
    else:
        crosses = copies and goes_to_device != bool(ours)
    if crosses:
        _crossed.append(tensors[-1].nbytes)
    if asked is not None:
        options = options | {"device": torch.device("cpu")}
    wrapped = {id(tensor.held): tensor for tensor in ours}
    arguments, options = tree_map(_held, (arguments, options))
    made = function(*arguments, **options)

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor) or not goes_to_device:
            return value
        return wrapped[id(value)] if id(value) in wrapped else OnDevice(value)

    return tree_map(place, made)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def guarded(collective: Any) -> Any:
    """The collective, over what the tensors hold; they have to be on the device."""

    def checked(*arguments: Any, **options: Any) -> Any:
        for tensor in tree_leaves((arguments, options)):
            if isinstance(tensor, Tensor):
                assert isinstance(tensor, OnDevice), f"{collective.__name__} over a tensor of the host"
        return collective(*tree_map(_held, arguments), **tree_map(_held, options))

    return checked


@contextmanager
def pretend_device() -> Iterator[list[int]]:
    with ExitStack() as stack:
        accelerator = type(get_accelerator())
        stack.enter_context(patch.object(accelerator, "current_device_name", lambda self: str(DEVICE)))
        for name in COLLECTIVES:
            stack.enter_context(patch.object(dist, name, guarded(getattr(dist, name))))
        stack.enter_context(Placing())
        _crossed.clear()
        yield _crossed
