"""Measures how far each tensor moves in a step around a change of shape, which must not make updates jump."""

import torch
import torch.distributed as dist
from torch import Tensor

from model.parameters import parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.host_copy import HOST, moved
from pretrain.engine.zero import fragments
from pretrain.recipe import ResolvedStage
from pretrain.training.events import StepResult, TrainerView
from pretrain.training.stage_entry import StageEntry

STEPS_BEFORE, STEPS_AFTER = 3, 10


class UpdateSizes(StageEntry):
    """Writes the event `update_size`: for each tensor the RMS of (new weight - old weight) / lr, decay included.

    It measures the last steps before a change and the first ones after it. Meanwhile the host keeps a copy of this
    rank's master weights: right after a model has grown, a GPU may have no room for one.
    """

    name = "update_sizes"

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Tensor] | None = None

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        super().on_stage(trainer, stage)
        self.before = self._copy(trainer) if self._is_near_a_change(trainer) else None

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        if self.before is not None and result.lr > 0:
            sizes = update_sizes(self.before, weights(trainer), list(parameter_table(trainer.stage.config)))
            sizes = {name: size / result.lr for name, size in sizes.items()}
            trainer.call("on_event", {"event": "update_size", "step": result.step, "stage": result.stage, "rms": sizes})
        self.before = self._copy(trainer) if self._is_near_a_change(trainer) else None

    def _is_near_a_change(self, trainer: TrainerView) -> bool:
        """Whether to measure the next step."""
        stages, stage = trainer.run.stages, trainer.stage
        if stage is not stages[0] and trainer.progress.step - self.entered < STEPS_AFTER:
            return True
        return trainer.run.unit == "steps" and stage is not stages[-1] and stage.end - trainer.now <= STEPS_BEFORE

    @staticmethod
    def _copy(trainer: TrainerView) -> dict[str, Tensor]:
        return {name: moved(weight, HOST, copy=True) for name, weight in weights(trainer).items()}


def weights(trainer: TrainerView) -> dict[str, Tensor]:
    return {name: fragment.weight for name, fragment in fragments(trainer.engine).items()}


def update_sizes(before: dict[str, Tensor], after: dict[str, Tensor], names: list[str]) -> dict[str, float]:
    """Root mean square of the difference for every trained tensor, over the fragments of all ranks. Collective.

    Where several ranks hold the same elements, each of them counts, in the sum and in its divisor. The new weights may
    be on the device or, offloaded, on the host.
    """
    sums = torch.zeros(2, len(names), dtype=torch.float64)
    for index, name in enumerate(names):
        if name in after:
            sums[0, index] = (after[name] - moved(before[name], after[name].device)).double().square().sum()
            sums[1, index] = after[name].numel()
    sums = sums.to(device())
    dist.all_reduce(sums)
    squares, counts = sums.cpu()
    return {
        name: (square / count) ** 0.5
        for name, square, count in zip(names, squares.tolist(), counts.tolist(), strict=True)
        if count
    }
