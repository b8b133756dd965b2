"""Counts operators of torch's and values that the host reads. On a GPU these are launches, and waits for it."""

import sys
from pathlib import Path
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
        self.readers: set[str] = set()
        """File and function of those that read: the first on the way up that is not torch's."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = str(function).removeprefix("aten.")
        if name.startswith(READS):
            self.reads += 1
            self.readers.add(_reader())
        elif not name.startswith(WITHOUT_KERNEL):
            self.operators += 1
        return function(*arguments, **(options or {}))


def _reader() -> str:
    frame = sys._getframe(2)
    while "/torch/" in frame.f_code.co_filename and frame.f_back is not None:
        frame = frame.f_back
    file = Path(frame.f_code.co_filename)
    return f"{file.parent.name}/{file.name} {frame.f_code.co_name}"
