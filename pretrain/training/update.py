"""One optimizer step on this rank: forward and backward over its micro-batches, then the update."""

import math
from collections.abc import Callable, Sequence

import torch
from torch.profiler import record_function

from model.batch import Batch
from pretrain.engine.distributed import data_parallel_sum, device
from pretrain.engine.norm import gradient_norm_before_step, skip_step
from pretrain.engine.readback import Readback
from pretrain.training.events import TrainerView
from pretrain.training.place import data_parallel_rank


def update(
    trainer: TrainerView,
    batches: Sequence[Batch],
    scales: tuple[float, float, float],
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[Readback, float | None]:
    """Takes the optimizer's step if the gradient is finite, else counts it as skipped.

    `scales` are those of masked words, sentences and cosines (`BertForPreTraining.forward`). `meanwhile` is called once
    all gradients are under way: a GPU still computes them, and the host has time.

    Returns [4] sums over the global batch: MLM loss, correct MLM predictions, sentence loss, correct sentence
    predictions, and a fifth where there is a teacher, of the cosines; and the gradient's norm where DeepSpeed does not
    report it. The sums are read before the update: by the time that DeepSpeed asks for the norm they are there, and
    nobody waits for the update itself.
    """
    engine = trainer.engine
    sums = torch.zeros(5 if scales[2] else 4, dtype=torch.float64, device=device())
    norm = None
    for index, batch in enumerate(batches):
        _seed_dropout(trainer, index)
        with record_function("forward"):
            output = engine(batch.to(device()), *scales)
        with record_function("backward"):
            engine.backward(output.loss)
        parts = [output.mlm_loss, output.mlm_correct, output.sentence_loss, output.sentence_correct]
        if output.cosines is not None:
            parts.append(output.cosines)
        sums += torch.stack([part.detach().double() for part in parts])
        is_last = index == len(batches) - 1
        if is_last:
            read = Readback(data_parallel_sum(sums))
            meanwhile()
        with record_function("optimizer"):
            if is_last:
                norm = gradient_norm_before_step(engine)
                if norm is not None and not math.isfinite(norm):
                    skip_step(engine)
            engine.step()
    return read, norm


def _seed_dropout(trainer: TrainerView, micro_batch: int) -> None:
    """Makes dropout a function of (seed, step, micro-batch, data-parallel rank): there is no state to restore.

    Tensor-parallel ranks share the seed. Where their activations differ, the model gives each rank its own stream.
    """
    place = (trainer.run.recipe.seed, trainer.progress.step, micro_batch, data_parallel_rank(trainer.stage))
    torch.manual_seed(hash(place) & (2**62 - 1))
