"""Reports the memory that training takes: in the first step of every stage, and now and then."""

import psutil
import torch

from pretrain.recipe import ResolvedStage
from pretrain.training.events import Hook, StepResult, TrainerView

GIB = 2**30


class Memory(Hook):
    """On rank 0 only, before Metrics is closed. An event `memory` every so many steps, in GiB of this rank."""

    def __init__(self, every: int = 50):
        self.every = every
        self.stage_is_new = True

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        self.stage_is_new = True

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        if self.stage_is_new or result.step % self.every == 0:
            self.stage_is_new = False
            trainer.call("on_event", {"event": "memory", "step": result.step, "stage": result.stage, **memory()})


def memory() -> dict[str, float]:
    """What the process holds on the host, and the most that its tensors took on the GPU since the last call."""
    held = {"host_memory_gib": psutil.Process().memory_info().rss / GIB}
    if torch.cuda.is_available():
        held["gpu_peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
        torch.cuda.reset_peak_memory_stats()
    return held
