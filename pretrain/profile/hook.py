"""Profiles some steps of a run: `--profile-steps 100:110` in training, and the verb `profile`."""

from dataclasses import asdict, replace
from pathlib import Path

import torch.distributed as dist
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from pretrain.cost.modules import module_work
from pretrain.engine.distributed import computes_on_gpu
from pretrain.profile.breakdown import MODULE, Breakdown, break_down
from pretrain.profile.page import write_breakdown
from pretrain.recipe import ResolvedStage
from pretrain.training.events import Hook, StepResult, TrainerView

MODULES = ("embeddings", "attention", "feedforward", "block", "mlm", "pooler", "sentence")
"""Parts of the model that get a line, by the last part of their name. A compiled `block` hides its parts."""


class Profiler(Hook):
    """Records steps `first` to `last` - 1 (counted from 1) on every rank.

    Each rank writes a trace that opens in Perfetto; rank 0 also writes the table, as JSON and as a page.
    """

    def __init__(self, first: int, last: int, folder: Path):
        self.first, self.last, self.folder = first, last, folder
        self.recorder: profile | None = None
        self.breakdown: Breakdown | None = None

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        self._start_before(trainer, trainer.progress.step + 1)

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        if self.recorder is not None and result.step == self.last - 1:
            self._stop()
        self._start_before(trainer, result.step + 1)

    def _start_before(self, trainer: TrainerView, step: int) -> None:
        if step != self.first or self.recorder is not None:
            return
        self.spans = [span for module in parts(trainer.engine.module) for span in _record_forward(*module)]
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * computes_on_gpu()
        self.work = module_work(trainer.stage, not computes_on_gpu())
        self.recorder = profile(activities=activities)
        self.recorder.start()

    def _stop(self) -> None:
        assert self.recorder is not None
        self.recorder.stop()
        for span in self.spans:
            span.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        rank = dist.get_rank()
        self.recorder.export_chrome_trace(str(self.folder / f"rank-{rank:05d}.trace.json"))
        found = break_down(self.recorder.events(), self.last - self.first, (*MODULES, "loss"))
        self.breakdown = replace(found, work={name: asdict(work) for name, work in self.work.items()})
        if rank == 0:
            write_breakdown(self.breakdown, self.folder, f"steps {self.first} to {self.last - 1}")
        self.recorder, self.first = None, -1


def parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that get a line, each with the name of its line."""
    modules = dict(model.named_modules())
    compiled = {name for name, module in modules.items() if "forward" in vars(module)}
    inside = tuple(f"{name}." for name in compiled)
    named = (
        ("block" if name in compiled else name.rpartition(".")[2], module)
        for name, module in modules.items()
        if not name.startswith(inside)
    )
    return [(name, module) for name, module in named if name in MODULES]


def _record_forward(name: str, module: nn.Module):
    """Wraps every forward pass of a module in a span of its name."""
    open_spans = []

    def enter(*_):
        span = record_function(MODULE + name)
        span.__enter__()
        open_spans.append(span)

    def leave(*_):
        open_spans.pop().__exit__(None, None, None)

    return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)
