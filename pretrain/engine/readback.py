"""Numbers of the device on the host, without waiting for what the device computes after them."""

from typing import Any

import torch
from torch import Tensor


class Readback:
    """Copies a tensor to the host, behind the work that its device has been given so far, and does not wait."""

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._copied = tensor, None
        if tensor.is_cuda:
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host, self._copied = pinned.copy_(tensor, non_blocking=True), torch.cuda.Event()
            self._copied.record()

    def tolist(self) -> Any:
        """As a tensor's: waits for the copy alone."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.tolist()
