"""torch's AdamW, without torch's compiler, which its `step` would load (and tell where to stop tracing)."""

from inspect import unwrap
from typing import Any

import torch

_torch_step = unwrap(torch.optim.AdamW.step)


class AdamW(torch.optim.AdamW):
    @torch.no_grad()
    def step(self, closure: None = None) -> Any:  # type: ignore[override]  # there is never a closure
        return _torch_step(self, closure)
