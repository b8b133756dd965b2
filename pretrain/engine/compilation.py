"""torch.compile of the model's blocks: norms, activations, dropout and sums are fused into their neighbours.

It pays on a GPU, where each of these would otherwise be a separate kernel that reads and writes its tensors. On a CPU a
step takes as long as before, and compiling takes extra time at every change of shape.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

import torch

from model.bert import BertForPreTraining
from model.block import whole_block
from model.errors import UserError
from model.loss import AS_A_WHOLE, IN_CHUNKS, Passes
from pretrain.optim.passes import can_compile

Choice = bool | Literal["auto"]

GRAPHS_PER_BLOCK = 8
"""For one shape: training, evaluation, other numbers or lengths of rows. Torch's limit counts all shapes."""


def compiles(choice: Choice, device: torch.device) -> bool:
    """Whether blocks are compiled on this device. `auto` compiles on a GPU where torch has what it needs.

    Raises UserError where `true` asks for it and something is missing.
    """
    missing = missing_for(device.type)
    if choice is True and missing:
        raise UserError(f"compile true needs {missing}, which is not here; install it, or set compile to auto")
    return choice is True or (choice == "auto" and device.type == "cuda" and missing is None)


def missing_for(device_type: str) -> str | None:
    """What torch.compile lacks on a kind of device, or None."""
    if device_type == "cpu":
        return None if can_compile() else "a C++ compiler (CXX, or g++)"
    if find_spec("triton") is None:
        return "the package triton"
    has_c_compiler = any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang"))))
    return None if has_c_compiler else "a C compiler (CC, gcc or clang)"


def compile_seconds() -> float:
    """Spent in torch.compile so far, by this process."""
    if "torch._dynamo" not in sys.modules:  # looking would load it
        return 0.0
    return sum(torch._dynamo.utils.compilation_time_metrics.get("_compile.compile_inner", []))


def compile_blocks(model: BertForPreTraining) -> None:
    """Compiles each block's forward pass in place, so parameters keep their names; on a GPU also the loss.

    A block whose parts a variant calls one by one (layer dropping, for example) is not compiled.
    """
    torch.compiler.reset()  # what was compiled for the shape before
    torch._dynamo.config.recompile_limit = GRAPHS_PER_BLOCK * max(len(model.blocks), 1)
    called_whole: set[torch.nn.Module | None] = {whole_block(layer) for layer in model.layers}
    for block in model.blocks:
        if block in called_whole:
            block.forward = torch.compile(block.forward)
    if model.mlm.bias.is_cuda:  # on a CPU chunks stay in the cache
        model.loss_passes = compiled_loss()


@contextmanager
def op_by_op(model: BertForPreTraining) -> Iterator[None]:
    """Inside, nothing is compiled. The loss then goes over its scores in chunks: as a whole, op by op, it would take
    several times their memory."""
    passes, model.loss_passes = model.loss_passes, IN_CHUNKS
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.loss_passes = passes


def compiled_loss() -> Passes:
    """One kernel forward and one backward, which move 6 bytes for each 16-bit score: op by op it is 50."""
    return Passes(torch.compile(AS_A_WHOLE.own), torch.compile(AS_A_WHOLE.gradient))
