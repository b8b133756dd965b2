"""torch, imported when it is first used: reading a recipe and choosing a shape need none, and it takes seconds."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    import torch.distributed as dist
    from torch import Tensor as Tensor
else:

    class _Module:
        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self._name), name)

    class Tensor:
        """Stands for torch.Tensor in annotations."""

    torch, dist = _Module("torch"), _Module("torch.distributed")

__all__ = ["Tensor", "dist", "torch"]
