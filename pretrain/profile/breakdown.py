"""From a profiler's events to a table of where a step goes."""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from pretrain.cost.modules import BACKWARD
from pretrain.profile.intervals import Interval, intersection, total, union

PHASES = ("data", "forward", "backward", "optimizer", "hooks")
"""The spans that the trainer records one after another; what lies between them is `other`."""

COLLECTIVE_PREFIXES = ("gloo:", "nccl:", "nccl:_")
MODULE = "module."
"""Before the name of a module in the span around its forward pass (hook.py)."""
FUNCTIONS = {"_VocabParallelCrossEntropy": "loss"}
"""Parts of the model that are no modules."""
NODE = "autograd::engine::evaluate_function: "
"""What the backward pass calls each operator's gradient; it has the operator's sequence number."""
NOISE = re.compile(r"^void |^autograd::engine::evaluate_function: |at::native::|\(anonymous namespace\)::")
LONGEST_NAME = 36
"""Of an operator in a table, and on the page: GPU kernels have names of hundreds of letters."""


@dataclass(frozen=True)
class Breakdown:
    """Milliseconds of one step, on one rank."""

    phases: dict[str, float]
    modules: dict[str, float] = field(default_factory=dict)
    """Forward passes of the model's parts, inside the phase `forward`."""
    collectives: dict[str, float] = field(default_factory=dict)
    """Time in each kind of collective; may overlap with the phases."""
    kernels: dict[str, float] = field(default_factory=dict)
    """The operators that took longest by themselves; on a GPU, its kernels and copies."""
    step: float = 0.0
    """From the beginning of the first phase to the end of the last: the phases and what lies between them."""
    backward: dict[str, float] = field(default_factory=dict)
    """Backward passes of the model's parts, inside the phase `backward`."""
    communication: dict[str, float] = field(default_factory=dict)
    """`exposed`: a collective runs and nothing is computed; `hidden`: behind computation."""
    work: dict[str, dict[str, float]] = field(default_factory=dict)
    """By module: the FLOPs and bytes of a forward pass (pretrain/cost/modules.py)."""

    def sections(self) -> dict[str, dict[str, float]]:
        """Milliseconds, part by part; in the first three the parts add up to the step, and to its two passes."""
        rest = "outside these"

        def whole(parts: dict[str, float], sum_of_all: float, others: str = rest) -> dict[str, float]:
            return parts | {others: max(0.0, sum_of_all - sum(parts.values()))}

        forward, backward = self.phases["forward"], self.phases["backward"]
        return {
            "phases": whole(self.phases, self.step, "between these"),
            "forward by module": whole(self.modules, forward) if self.modules else {},
            "backward by module": whole(self.backward, backward) if self.backward else {},
            "communication": self.communication,
            "collectives": self.collectives,
            "operators by themselves": _by_short_name(self.kernels),
        }

    def rates(self, section: str, name: str) -> tuple[float, float] | None:
        """FLOP/s and bytes/s of a module's forward or backward pass, where both its work and its time are known."""
        milliseconds, work = self.sections()[section].get(name, 0.0), self.work.get(name)
        if not section.endswith("by module") or not work or not milliseconds:
            return None
        passes = BACKWARD if section.startswith("backward") else 1
        return 1e3 * passes * work["flops"] / milliseconds, 1e3 * passes * work["bytes"] / milliseconds


def _by_short_name(operators: dict[str, float]) -> dict[str, float]:
    """The longest first; variants of a kernel whose names differ only beyond what is shown are one."""
    sums: dict[str, float] = defaultdict(float)
    for name, milliseconds in operators.items():
        short = NOISE.sub("", name)
        sums[short if len(short) <= LONGEST_NAME else short[: LONGEST_NAME - 3] + "..."] += milliseconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def break_down(
    events: Iterable[FunctionEvent], num_steps: int, modules: Sequence[str], num_kernels: int = 12
) -> Breakdown:
    """Mean over the recorded steps. On a GPU all of it is the device's time: the host only hands out work, and waits.

    There the profiler reports a span once more, from the first of its kernels to the last.
    """
    events = list(events)
    on_host = sorted((event for event in events if event.device_type == DeviceType.CPU), key=_start)
    on_device = [event for event in events if event.device_type != DeviceType.CPU and not event.is_user_annotation]
    spans = [event for event in on_host if event.name in PHASES]
    repeated = [event for event in events if event.device_type != DeviceType.CPU and event.is_user_annotation]
    timed = repeated if any(event.name in PHASES for event in repeated) else spans
    phases = {phase: sum(_milliseconds(event) for event in timed if event.name == phase) for phase in PHASES}
    forward = [_interval(event) for event in spans if event.name == "forward"]
    parts = [(_part_of(event), event) for event in on_host if _part_of(event) and _holder(forward, event) is not None]

    collectives: dict[str, float] = defaultdict(float)
    kernels: dict[str, float] = defaultdict(float)
    for event in repeated if on_device else on_host:
        if event.name.startswith(COLLECTIVE_PREFIXES):
            collectives[event.name.split(":", 1)[1]] += _milliseconds(event)
    for event in on_device:
        if not _is_sent(event):
            kernels[event.name] += _milliseconds(event)
    for event in [] if on_device else on_host:
        if event.name not in PHASES and not event.name.startswith((MODULE, *COLLECTIVE_PREFIXES)):
            kernels[event.name] += event.self_cpu_time_total / 1e3
    longest = sorted(kernels.items(), key=lambda item: -item[1])[:num_kernels]

    def a_step(milliseconds: dict[str, float]) -> dict[str, float]:
        return {name: value / num_steps for name, value in milliseconds.items()}

    return Breakdown(
        phases=a_step(phases),
        modules=a_step(_by_module(((name, _work(event)) for name, event in parts), modules)),
        collectives=a_step(dict(sorted(collectives.items(), key=lambda item: -item[1]))),
        kernels=a_step(dict(longest)),
        step=(max(map(_end, spans)) - min(map(_start, spans))) / 1e3 / num_steps if spans else 0.0,
        backward=a_step(_by_module(_gradients(on_host, parts), modules)),
        communication=a_step(_communication(on_host, on_device)),
    )


def _part_of(event: FunctionEvent) -> str:
    """The part of the model whose forward pass an event is; empty for any other."""
    return event.name.removeprefix(MODULE) if event.name.startswith(MODULE) else FUNCTIONS.get(event.name, "")


def _gradients(
    on_host: Sequence[FunctionEvent], parts: Sequence[tuple[str, FunctionEvent]]
) -> Iterable[tuple[str, float]]:
    """Each node of the backward pass with the name of the module whose forward pass made it, and its milliseconds.

    An operator carries the number of the node that comes next; of several with one number the last has made it.
    """
    inside = [_interval(event) for _, event in parts]
    maker: dict[int, str] = {}
    for event in on_host:
        if event.sequence_nr >= 0 and event.fwd_thread == 0 and not event.name.startswith(NODE):
            part = _holder(inside, event)
            maker[event.sequence_nr] = "" if part is None else parts[part][0]
    for event in on_host:
        if event.name.startswith(NODE):
            yield maker.get(event.sequence_nr, ""), _work(event)


def _by_module(times: Iterable[tuple[str, float]], modules: Sequence[str]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for name, milliseconds in times:
        sums[name] += milliseconds
    return {name: sums[name] for name in modules if name in sums}


def _communication(on_host: Sequence[FunctionEvent], on_device: Sequence[FunctionEvent]) -> dict[str, float]:
    """On a GPU by its kernels; on a CPU by the operators that call no others."""
    if on_device:
        sent = union(_interval(event) for event in on_device if _is_sent(event))
        computed = union(_interval(event) for event in on_device if not _is_sent(event))
    else:
        sent = union(_interval(event) for event in on_host if event.name.startswith(COLLECTIVE_PREFIXES))
        computed = union(_interval(event) for event in on_host if _computes(event))
    hidden = total(intersection(sent, computed)) / 1e3
    return {"exposed": total(sent) / 1e3 - hidden, "hidden": hidden}


def _is_sent(event: FunctionEvent) -> bool:
    """Whether a kernel is NCCL's."""
    return "nccl" in event.name.lower()


def _computes(event: FunctionEvent) -> bool:
    return event.name.startswith("aten::") and not any(child.name.startswith("aten::") for child in event.cpu_children)


def _holder(intervals: Sequence[Interval], event: FunctionEvent) -> int | None:
    """Which of some intervals, in order and without overlaps, `event` begins in."""
    index = bisect_right(intervals, (_start(event), float("inf"))) - 1
    return index if index >= 0 and _start(event) < intervals[index][1] else None


def _work(event: FunctionEvent) -> float:
    """Milliseconds of the device's, where it has started any kernel."""
    return (event.device_time_total or event.cpu_time_total) / 1e3


def _milliseconds(event: FunctionEvent) -> float:
    return event.time_range.elapsed_us() / 1e3


def _start(event: FunctionEvent) -> float:
    return event.time_range.start


def _end(event: FunctionEvent) -> float:
    return event.time_range.end


def _interval(event: FunctionEvent) -> Interval:
    return event.time_range.start, event.time_range.end
