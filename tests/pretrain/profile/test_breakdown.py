"""Where a step goes, from made-up events of a profiler: on a GPU, where passes and messages overlap."""

import pytest
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent, Kernel

from pretrain.profile.breakdown import MODULE, NODE, break_down
from pretrain.profile.intervals import intersection, total, union
from pretrain.profile.tables import percentages


def event(
    name: str, start: float, end: float, *, number=-1, device: float = 0, on=DeviceType.CPU, thread=0, span=False
) -> FunctionEvent:
    """Times in milliseconds. `number`: its sequence number; `device`: of the kernel that it starts."""
    made = FunctionEvent(
        0,
        name,
        0,
        1e3 * start,
        1e3 * end,
        device_type=on,
        sequence_nr=number,
        fwd_thread=thread,
        scope=0,
        is_user_annotation=span,
    )
    if device:
        made.kernels.append(Kernel("kernel", 0, 1e3 * device))
    return made


STEP = [
    event("forward", 0, 4),
    event(MODULE + "attention", 1, 2),
    event("aten::mm", 1.2, 1.6, number=5),
    event("aten::mul", 2.5, 2.6, number=6),  # outside the modules
    event("aten::add", 1.7, 1.8, number=6),  # peeks at the next number, and makes no node
    event("backward", 4, 9),
    event(NODE + "MulBackward0", 5, 5.5, number=6, thread=1),
    event(NODE + "MmBackward0", 6, 8, number=5, thread=1),
    event(NODE + "AccumulateGrad", 8, 8.5, number=-1, thread=1),
    event("optimizer", 9.5, 10),
]


def test_the_backward_pass_of_a_module_is_that_of_its_operators():
    found = break_down(STEP, 1, ["attention"])
    assert found.modules == {"attention": pytest.approx(1)}
    assert found.backward == {"attention": pytest.approx(2)}
    sections = found.sections()
    assert sections["backward by module"]["outside these"] == pytest.approx(3)
    assert sum(sections["phases"].values()) == pytest.approx(found.step) == 10


def test_a_forward_pass_that_the_backward_pass_repeats_is_not_counted_with_it():
    found = break_down([*STEP, event(MODULE + "attention", 6.1, 6.9)], 1, ["attention"])
    assert found.modules == {"attention": pytest.approx(1)}


def test_on_a_gpu_messages_are_hidden_behind_kernels():
    on = DeviceType.CUDA
    kernels = [event("ampere_gemm", 1, 5, on=on), event("ncclDevKernel_AllReduce", 4, 7, on=on)]
    found = break_down([*STEP, *kernels], 1, ["attention"])
    assert found.communication == {"exposed": pytest.approx(2), "hidden": pytest.approx(1)}


def test_on_a_gpu_waits_and_launches_of_the_host_do_not_count():
    """A product of 2 ms and an all-reduce of 12 ms, which the host hands out in no time and then waits 300 ms for."""
    on = DeviceType.CUDA
    events = [
        event("forward", 0, 1, span=True),
        event("backward", 1, 2, span=True),
        event("aten::mm", 0.01, 0.02, device=2),
        event("cudaLaunchKernel", 0.015, 0.018),
        event("cudaStreamSynchronize", 2, 302),
        event("nccl:all_reduce", 2.1, 2.15, device=12, span=True),
        event("forward", 5, 9, on=on, span=True),
        event("Optimizer.step#AdamW.step", 5, 9, on=on, span=True),
        event("sm90_xmma_gemm_bf16", 5, 7, on=on),
        event("nccl:all_reduce", 8, 20, on=on, span=True),
        event("ncclDevKernel_AllReduce_Sum_bf16", 8, 20, on=on),
    ]
    found = break_down(events, 2, [])
    assert found.phases == {"data": 0, "forward": 2, "backward": 0, "optimizer": 0, "hooks": 0}
    assert found.collectives == {"all_reduce": 6}
    assert found.kernels == {"sm90_xmma_gemm_bf16": 1}


def test_intervals():
    ours, theirs = union([(0, 2), (5, 6), (1, 3)]), union([(2, 5.5)])
    assert ours == [(0, 3), (5, 6)]
    assert intersection(ours, theirs) == [(2, 3), (5, 5.5)]
    assert total(intersection(ours, theirs)) == 1.5


def test_percentages_add_up():
    assert percentages([1, 1, 1], 3) == [33.4, 33.3, 33.3]
    assert percentages([], 3) == []
    assert percentages([0, 0], 0) == [0, 0]
