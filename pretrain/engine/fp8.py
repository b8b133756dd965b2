"""`fp8: true`: which devices multiply in FP8, and what a run says where none does."""

import torch

from model.errors import UserError
from pretrain.engine.distributed import computes_on_gpu, device

LEAST_CAPABILITY = (8, 9)
"""Of CUDA devices: Ada. Hopper has 9.0."""


def multiplies_in_fp8() -> bool:
    """Whether this device is a GPU that does."""
    return computes_on_gpu() and torch.cuda.get_device_capability(device()) >= LEAST_CAPABILITY


def check_fp8_device() -> None:
    """Raises UserError on a GPU that does not multiply in FP8."""
    if computes_on_gpu() and not multiplies_in_fp8():
        major, minor = torch.cuda.get_device_capability(device())
        raise UserError(
            f"fp8 needs a GPU of compute capability 8.9 or higher (Ada, Hopper, Blackwell), and "
            f"{torch.cuda.get_device_name(device())} has {major}.{minor}; leave fp8 out"
        )


def emulation_in_words(asked: bool) -> str | None:
    """What `fp8` is on this device, where it is not what it is for."""
    if not asked or computes_on_gpu():
        return None
    return "fp8 is emulated on this CPU, for tests: the numbers of a GPU, but slower than fp32"
