"""From a profiler's events to a table of where a step goes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch.autograd.profiler_util import FunctionEvent

PHASES = ("data", "forward", "backward", "optimizer", "hooks")
"""The spans that the trainer records one after another; what lies between them is `other`."""

COLLECTIVE_PREFIXES = ("gloo:", "nccl:", "nccl:_")


@dataclass(frozen=True)
class Breakdown:
    """Milliseconds of one step, on one rank."""

    phases: dict[str, float]
    modules: dict[str, float] = field(default_factory=dict)
    """Forward passes of the model's parts, inside the phase `forward`."""
    collectives: dict[str, float] = field(default_factory=dict)
    """Time in each kind of collective; may overlap with the phases."""
    kernels: dict[str, float] = field(default_factory=dict)
    """The operators that took longest by themselves."""


def break_down(
    events: Iterable[FunctionEvent], num_steps: int, modules: Sequence[str], num_kernels: int = 12
) -> Breakdown:
    """Mean over the recorded steps. On a GPU phases and modules are host time, kernels are device time."""
    spans: dict[str, float] = defaultdict(float)
    collectives: dict[str, float] = defaultdict(float)
    kernels: dict[str, float] = defaultdict(float)
    for event in events:
        milliseconds = event.cpu_time_total / 1e3 / num_steps
        if event.name in PHASES or event.name.startswith("module."):
            spans[event.name] += milliseconds
        elif event.name.startswith(COLLECTIVE_PREFIXES):
            collectives[event.name.split(":", 1)[1]] += milliseconds
        else:
            own = event.self_device_time_total or event.self_cpu_time_total
            kernels[event.name] += own / 1e3 / num_steps
    longest = sorted(kernels.items(), key=lambda item: -item[1])[:num_kernels]
    return Breakdown(
        phases={phase: spans[phase] for phase in PHASES},
        modules={name: spans[f"module.{name}"] for name in modules if f"module.{name}" in spans},
        collectives=dict(sorted(collectives.items(), key=lambda item: -item[1])),
        kernels=dict(longest),
    )
