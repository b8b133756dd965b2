"""Counts operators of torch's and values that the host reads. On a GPU these are launches, and waits for it."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal.")
WITHOUT_KERNEL = (
    *("view", "_unsafe_view", "reshape", "t.", "transpose", "detach", "slice", "select", "unbind", "split", "narrow"),
    *("alias", "expand", "unsqueeze", "squeeze", "as_strided", "permute", "empty", "lift_fresh"),
)


class Counting(TorchDispatchMode):
    """`with Counting() as counted:`"""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.reads = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = str(function).removeprefix("aten.")
        if name.startswith(READS):
            self.reads += 1
        elif not name.startswith(WITHOUT_KERNEL):
            self.operators += 1
        return function(*arguments, **(options or {}))
