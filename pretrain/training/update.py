"""One optimizer step on this rank: forward and backward over its micro-batches, then the update."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from model.batch import Batch
from pretrain.engine.distributed import data_parallel_sum, device
from pretrain.engine.norm import gradient_norm_before_step, skip_step
from pretrain.training.events import TrainerView
from pretrain.training.stages import data_parallel_rank


def count(batches: Sequence[Batch]) -> tuple[int, int, int]:
    """Masked tokens, sentence pairs and tokens of the global batch. Collective."""
    counts = torch.tensor(
        [
            sum(len(batch.masked_ids) for batch in batches),
            sum(0 if batch.sentence_labels is None else len(batch.sentence_labels) for batch in batches),
            sum(batch.num_tokens for batch in batches),
        ],
        device=device(),
    )
    num_masked, num_sentences, num_tokens = data_parallel_sum(counts).tolist()
    return num_masked, num_sentences, num_tokens


def update(
    trainer: TrainerView, batches: Sequence[Batch], mlm_scale: float, sentence_scale: float
) -> tuple[Tensor, float | None]:
    """Takes the optimizer's step if the gradient is finite, else counts it as skipped.

    Returns [4] this rank's sums: MLM loss, correct MLM predictions, sentence loss, correct sentence predictions; and
    the gradient's norm where DeepSpeed does not report it.
    """
    engine = trainer.engine
    sums = torch.zeros(4, dtype=torch.float64, device=device())
    norm = None
    for index, batch in enumerate(batches):
        _seed_dropout(trainer, index)
        with record_function("forward"):
            output = engine(batch.to(device()), mlm_scale, sentence_scale)
        with record_function("backward"):
            engine.backward(output.loss)
        with record_function("optimizer"):
            if index == len(batches) - 1:
                norm = gradient_norm_before_step(engine)
                if norm is not None and not math.isfinite(norm):
                    skip_step(engine)
            engine.step()
        parts = (output.mlm_loss, output.mlm_correct, output.sentence_loss, output.sentence_correct)
        sums += torch.stack([part.detach().double() for part in parts])
    return sums, norm


def _seed_dropout(trainer: TrainerView, micro_batch: int) -> None:
    """Makes dropout a function of (seed, step, micro-batch, data-parallel rank): there is no state to restore.

    Tensor-parallel ranks share the seed. Where their activations differ, the model gives each rank its own stream.
    """
    place = (trainer.run.recipe.seed, trainer.progress.step, micro_batch, data_parallel_rank(trainer.stage))
    torch.manual_seed(hash(place) & (2**62 - 1))
