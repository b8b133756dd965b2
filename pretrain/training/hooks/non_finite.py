"""Keeps a loss or gradient that is not finite out of the weights, and gets the run past the data that causes it.

A step whose gradient is not finite is skipped, and the first tensor that is not finite is named. After several such
steps in a row, the run rolls back to its last checkpoint and skips the data read since. After several rollbacks, it
stops.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.bert import BertForPreTraining
from pretrain.engine.agreement import first_message
from pretrain.engine.compilation import op_by_op
from pretrain.training.events import Hook, StepResult, TrainerView
from pretrain.training.hooks.rollbacks import Rollbacks

CURE = (
    "lower optimizer.lr, lengthen schedule.warmup or look at the data there, then start a new run from an earlier "
    "checkpoint"
)


class NonFiniteGuard(Hook):
    """A skipped step consumes data; neither the step count nor the schedule advances."""

    def __init__(self, rollbacks: Rollbacks, steps: int):
        """Goes back after so many steps in a row."""
        self.rollbacks, self.steps = rollbacks, steps
        self.num_in_a_row = 0

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.num_in_a_row = 0

    def on_skip(self, trainer: TrainerView, loss: float, repeat: Callable[[], Any]) -> None:
        if trainer.stage.precision == "fp16" and math.isfinite(loss):
            return  # an overflow of the scaled gradient: the loss scale falls, as it should
        self.num_in_a_row += 1
        step = trainer.progress.step + 1
        culprit = _first_non_finite(trainer.engine.module, repeat)
        message = f"step {step} skipped: {culprit} is not finite ({self.num_in_a_row} in a row)"
        trainer.call("on_event", {"event": "skipped", "step": trainer.progress.step, "message": message})
        if self.num_in_a_row >= self.steps:
            self.rollbacks.skip_data(trainer, f"step {step}: {culprit} is not finite", CURE)


def _first_non_finite(module: BertForPreTraining, repeat: Callable[[], Any]) -> str:
    """Repeats the step and names the first output, else the first gradient, that is not finite. Collective."""
    found: list[str] = []

    def watch(what: str) -> Callable[[Any], None]:
        def look(value: Any) -> None:
            # Detached: a checkpointed layer must save the same tensors when it is computed again.
            if not found and isinstance(value, Tensor) and not torch.isfinite(value.detach()).all():
                found.append(what)

        return look

    handles = []
    for name, part in module.named_modules():
        if name and not any(part.children()):
            look = watch(f"the output of {name}")
            handles.append(part.register_forward_hook(lambda part, inputs, output, look=look: look(output)))
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_hook(watch(f"the gradient of {name}")))
    try:
        with op_by_op(module):  # compiled blocks do not show their parts
            repeat()
    finally:
        for handle in handles:
            handle.remove()
    return first_message(f"{found[0]} (rank {dist.get_rank()})" if found else None) or "the gradient's norm"
