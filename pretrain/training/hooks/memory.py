"""Reports the memory that training takes: in the first step of every stage, and every N steps."""

import psutil
import torch

from pretrain.engine.distributed import computes_on_gpu
from pretrain.recipe import ResolvedStage
from pretrain.training.events import Hook, StepResult, TrainerView

GIB = 2**30


class Memory(Hook):
    """Writes the event `memory`, in GiB of this rank."""

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
    """Memory of this process on the host, and the peak of its tensors on the GPU since the last call."""
    held = {"host_memory_gib": psutil.Process().memory_info().rss / GIB}
    if computes_on_gpu():
        held["gpu_peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
        torch.cuda.reset_peak_memory_stats()
    return held
