"""Runs a model on one rank or on several tensor-parallel ranks and returns logical losses and gradients."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from model.batch import Batch
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.initialize import initial_weight
from model.parallel.layout import ParallelLayout
from model.parallel.tensor import TensorParallel, unshard
from model.parameters import parameter_table
from tests.support.workers import pool

ALONE = TensorParallel()


def layout_of(tensor_parallel: int) -> ParallelLayout:
    """All ranks of the process group, in groups of `tensor_parallel`."""
    return ParallelLayout(tensor_parallel, dist.get_world_size() // tensor_parallel)


def small_config(**changes) -> BertConfig:
    """Small, every width divisible by 4, a vocabulary size that is a prime number, dropout off."""
    fields = dict(layers=2, hidden=24, heads=4, ffn=32, vocab_size=131, max_positions=16)
    return BertConfig(**{**fields, "hidden_dropout": 0.0, "attention_dropout": 0.0, **changes})


def random_weight(config: BertConfig, name: str, seed: int = 0) -> Tensor:
    """A generic point: fresh weights plus noise, so that no bias is 0 and no norm weight 1. Scaled to move the loss."""
    fresh = initial_weight(config, name, seed).double()
    noise = np.random.default_rng([seed, *name.encode()]).standard_normal(fresh.shape)
    return 2 * fresh + 0.1 * torch.from_numpy(np.asarray(noise))


def build(config: BertConfig, tp: TensorParallel = ALONE, dtype: torch.dtype = torch.float64) -> BertForPreTraining:
    """The model at the generic point of seed 0, in eval mode."""
    model = BertForPreTraining(config, tp).to(dtype)
    model.load_weights(lambda name: random_weight(config, name))
    return model.eval()


def random_batch(config: BertConfig, layout: str = "full", rows: int = 3, length: int = 12, seed: int = 0) -> Batch:
    """`full`: every row one sequence; `padded`: rows of different lengths; `packed`: several sequences in a row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, config.vocab_size, (rows, length), generator=generator)
    types = (torch.arange(length) >= length // 2).long().expand(rows, -1).contiguous()
    lengths_of = {
        "full": [[length]] * rows,
        "padded": [[length - 2 * row] for row in range(rows)],
        "packed": [[5, length - 5 - row] if row else [4, 3, 4] for row in range(rows)],
    }[layout]
    segments, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    starts = []
    for row, lengths in enumerate(lengths_of):
        start = 0
        for number, size in enumerate(lengths, start=1):
            starts.append(row * length + start)
            segments[row, start : start + size] = number
            positions[row, start : start + size] = torch.arange(size)
            start += size
    real = segments.flatten().nonzero().squeeze(1)
    masked = real[torch.randperm(len(real), generator=generator)[: len(real) // 4]].sort().values
    full = layout == "full"
    return Batch(
        ids=ids,
        masked_positions=masked,
        masked_ids=torch.randint(config.vocab_size, masked.shape, generator=generator),
        types=types,
        positions=None if full else positions,
        segments=None if full else segments,
        sentence_positions=torch.tensor(starts) if config.sentence_head else None,
        sentence_labels=torch.arange(len(starts)) % 2 if config.sentence_head else None,
    )


@dataclass
class Result:
    outputs: dict[str, float]
    gradients: dict[str, np.ndarray]  # of trainable parameters, in logical shape


def run(
    config: BertConfig,
    batch: Batch,
    tensor_parallel: int = 1,
    dtype: torch.dtype = torch.float64,
    training: bool = False,
    sequence_parallel: bool = False,
) -> Result:
    """Loss and logical gradients. Asserts that all ranks agree on whatever is replicated."""
    arguments = (config, batch, tensor_parallel, dtype, training, sequence_parallel)
    ranks = [run_rank(*arguments)] if tensor_parallel == 1 else pool(tensor_parallel).run(run_rank, *arguments)
    outputs, gradients = zip(*ranks, strict=True)
    assert all(other == outputs[0] for other in outputs), outputs
    logical = {}
    for name, spec in parameter_table(config).items():
        if not spec.trainable:
            continue
        parts = [gradient[name] for gradient in gradients]
        if spec.tensor_parallel_axis is None:
            assert all(np.array_equal(part, parts[0]) for part in parts), f"{name} differs between ranks"
        logical[name] = unshard(spec, [torch.from_numpy(part) for part in parts]).numpy()
    return Result(outputs[0], logical)


def run_rank(
    config: BertConfig,
    batch: Batch,
    tensor_parallel: int,
    dtype: torch.dtype,
    training: bool,
    sequence_parallel: bool = False,
) -> tuple:
    tp = layout_of(tensor_parallel).install() if tensor_parallel > 1 else ALONE
    tp = replace(tp, sequence_parallel=sequence_parallel)
    model = build(config, tp, dtype).train(training)
    model.begin_step(step=300, steps_masked=2000, seed=1)
    output = model(batch, mlm_scale=0.25, sentence_scale=0.5)
    output.loss.backward()
    table = parameter_table(config)
    gradients = {
        name: parameter.grad.double().reshape(table[name].local_shape(tp.size)).numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return {key: value.item() for key, value in output._asdict().items() if value is not None}, gradients


def assert_close(left: Result, right: Result, tolerance: float = 1e-10) -> None:
    for key, value in left.outputs.items():
        assert abs(value - right.outputs[key]) <= tolerance * max(1.0, abs(value)), (key, value, right.outputs[key])
    assert left.gradients.keys() == right.gradients.keys()
    for name, gradient in left.gradients.items():
        np.testing.assert_allclose(right.gradients[name], gradient, atol=tolerance, rtol=tolerance, err_msg=name)
