"""torch's AdamW, without torch's compiler, which its `step` would load (and tell where to stop tracing)."""

from collections.abc import Iterator
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from pretrain.optim.new_units import NewEntries, adamw_apart

_torch_step = unwrap(torch.optim.AdamW.step)


class AdamW(torch.optim.AdamW):
    new_entries: NewEntries | None = None
    """Of new units that have begun without state."""

    @torch.no_grad()
    def step(self, closure: None = None) -> Any:  # type: ignore[override]  # there is never a closure
        apart = list(self._stepped_apart(self.new_entries)) if self.new_entries else []
        result = _torch_step(self, closure)
        for weight, new, values in apart:
            weight.masked_scatter_(new, values)
        return result

    def _stepped_apart(self, entries: NewEntries) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """A flat weight, which of its elements are new, and what these become."""
        for group in self.param_groups:
            for tensor in group["params"]:
                new = entries.of(tensor)
                if tensor.grad is None or new is None:
                    continue
                state = self.state[tensor]
                weight = tensor.detach().view(-1)
                rest = (tensor.grad.view(-1), state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1))
                yield weight, new, adamw_apart(new, entries.taken, entries.lr_factor, group, (weight, *rest))
