"""The operators of a step on a GPU, with what each reads, writes and computes, on a machine without one.

The model runs on the device "meta", whose tensors have shapes and no numbers. Packed rows go through torch's kernel for
runs of tokens, and the loss is that of a compiler: one operator each way.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from model import attention_kernels
from model.batch import Batch, Runs
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.loss import Own, Passes
from tests.support.counting import WITHOUT_KERNEL

RUNS_OF_A_ROW, PREDICTED = 2, 0.15

KINDS = {
    "matrix products": ("mm", "addmm", "bmm"),
    "attention": ("_varlen_attn",),
    "loss": ("own_scores", "gradient_of_scores"),
    "norms": ("native_layer_norm",),
    "GELU": ("gelu",),
    "dropout": ("native_dropout",),
    "rows of tables and of tokens": ("embedding", "index", "_index", "new_zeros"),
    "sums over tokens": ("sum",),
    "residual sums": ("add",),
}
ROWS_READ, ROWS_ADDED = ("embedding.", "index.Tensor"), ("index_put", "_index_put")
"""Operators that read some rows of their first argument, as many as they write; and those that add to some rows."""

Bytes = dict[int, int]
"""By storage."""


@dataclass
class Operator:
    name: str
    reads: Bytes
    writes: Bytes
    flops: float = 0.0
    region: int = 0
    """Counts the passes of blocks; 0 outside them."""

    @property
    def kind(self) -> str:
        return next((kind for kind, names in KINDS.items() if self.name.startswith(names)), "copies and the rest")

    @property
    def num_bytes(self) -> int:
        return sum(self.reads.values()) + sum(self.writes.values())


@dataclass
class Step:
    """Forward and backward pass of one micro-batch, in bf16."""

    operators: list[Operator] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    """All storages, so that their numbers stay theirs. Not tensors: a gradient that somebody holds would be copied."""


class Recorder(TorchDispatchMode):
    def __init__(self, step: Step, attention_flops: float):
        super().__init__()
        self.step, self.attention_flops = step, attention_flops
        self.region = self.num_regions = 0

    def enter(self, *_: Any) -> None:
        self.num_regions += 1
        self.region = self.num_regions

    def leave(self, *_: Any) -> None:
        self.region = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        made = function(*arguments, **(options or {}))
        name = str(function).partition(".")[2]
        self.step.kept += [
            leaf.untyped_storage() for leaf in tree_leaves((arguments, made)) if isinstance(leaf, Tensor)
        ]
        if not name.startswith((*WITHOUT_KERNEL, "new_empty")):
            flops = 0.0
            if "varlen" in name:
                flops = self.attention_flops * (2.5 if "backward" in name else 1)
            elif (formula := flop_registry.get(function._overloadpacket)) is not None:
                flops = formula(*arguments, **(options or {}), out_val=made)
            self.step.operators.append(Operator(name, *moved(name, arguments, made), flops, self.region))
        return made


def moved(name: str, arguments: Any, made: Any) -> tuple[Bytes, Bytes]:
    """What is read, and what is written."""
    reads, writes = bytes_of(arguments), bytes_of(made)
    if name.startswith(ROWS_READ):
        reads[next(iter(reads))] = sum(writes.values())
    if name.startswith(ROWS_ADDED):
        rows = sum(bytes_of(arguments[2]).values())
        reads, writes = bytes_of(arguments[1:]) | dict.fromkeys(writes, rows), dict.fromkeys(writes, rows)
    return reads, writes


def bytes_of(tree: Any) -> Bytes:
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return {
        tensor.untyped_storage()._cdata: min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
        for tensor in tensors
    }


@torch.library.custom_op("espalier_test::own_scores", mutates_args=())
def own_scores(logits: Tensor, num_words: int) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("its shapes are counted; it is never computed")


@own_scores.register_fake
def _(logits: Tensor, num_words: int) -> tuple[Tensor, Tensor]:
    return logits.new_empty(len(logits), dtype=torch.float32), logits.new_empty(len(logits), dtype=torch.float32)


@torch.library.custom_op("espalier_test::gradient_of_scores", mutates_args=())
def gradient_of_scores(logits: Tensor, rows: list[Tensor]) -> Tensor:
    raise NotImplementedError("its shapes are counted; it is never computed")


@gradient_of_scores.register_fake
def _(logits: Tensor, rows: list[Tensor]) -> Tensor:
    return torch.empty_like(logits)


def _gradient(logits: Tensor, num_words: int, own: Own, *rows: Tensor) -> Tensor:
    return gradient_of_scores(logits, [*own, *rows])


def operators_of(config: BertConfig, num_rows: int, sequence: int) -> list[Operator]:
    step = Step()
    attention_flops = 4.0 * num_rows * sequence * (sequence / RUNS_OF_A_ROW) * config.hidden
    recorder, model = Recorder(step, attention_flops), model_on_meta(config)
    for block in model.blocks:
        block.register_forward_pre_hook(recorder.enter)
        block.register_forward_hook(recorder.leave)
        block.register_full_backward_pre_hook(recorder.enter)
        block.register_full_backward_hook(recorder.leave)
    with kernels_of_a_gpu(), recorder:
        model(packed_rows(num_rows, sequence)).loss.backward()
    return step.operators


@contextmanager
def kernels_of_a_gpu() -> Iterator[None]:
    with ExitStack() as stack:
        kernel = attention_kernels.torch_varlen
        stack.enter_context(patch.object(attention_kernels, "kernel_for_runs", lambda *_: kernel))
        fused = lambda x, probability: torch.native_dropout(x, probability, True)[0]  # noqa: E731
        stack.enter_context(patch("model.dropout.dropout", fused))
        yield


def model_on_meta(config: BertConfig) -> BertForPreTraining:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = BertForPreTraining(config)
    finally:
        torch.set_default_dtype(default)
    model.loss_passes = Passes(own_scores, _gradient)
    return model.train()


def packed_rows(num_rows: int, sequence: int) -> Batch:
    def numbers(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    predicted, num_runs = round(PREDICTED * num_rows * sequence), RUNS_OF_A_ROW * num_rows
    return Batch(
        numbers(num_rows, sequence),
        numbers(predicted),
        numbers(predicted),
        types=numbers(num_rows, sequence),
        positions=numbers(num_rows, sequence),
        segments=numbers(num_rows, sequence),
        runs=Runs(numbers(num_runs + 1, dtype=torch.int32), sequence // RUNS_OF_A_ROW),
        sentence_positions=numbers(num_runs),
        sentence_labels=numbers(num_runs),
    )
