"""Validation: MLM loss and accuracy on fixed rows with fixed masks."""

import math
from collections.abc import Sequence

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import nn

from model.batch import Batch
from pretrain.data import Corpus, validation_batches
from pretrain.data.objective import Objective
from pretrain.engine.distributed import data_parallel_sum, device
from pretrain.recipe.schema import Data
from pretrain.training.events import Evaluation


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> Evaluation:
    """Losses and accuracy over all data-parallel ranks' batches, of an engine or a bare model; NaN where no
    token is masked, or there are no pairs. Collective."""
    module = model.module if isinstance(model, DeepSpeedEngine) else model
    was_training = module.training
    module.eval()
    # Loss, correct predictions and number of masked tokens; loss and number of sentence pairs.
    sums = torch.zeros(5, dtype=torch.float64, device=device())
    with torch.no_grad():
        for batch in batches:
            output = model(batch.to(device()))
            num_pairs = 0 if batch.sentence_labels is None else len(batch.sentence_labels)
            of_words = output.mlm_loss.double(), output.mlm_correct.double(), sums.new_tensor(len(batch.masked_ids))
            sums += torch.stack([*of_words, output.sentence_loss.double(), sums.new_tensor(num_pairs)])
    module.train(was_training)
    loss, correct, num_masked, sentence_loss, num_pairs = data_parallel_sum(sums).tolist()
    return Evaluation(mean(loss, num_masked), mean(correct, num_masked), mean(sentence_loss, num_pairs))


def mean(total: float, number: float) -> float:
    """NaN for a mean of nothing."""
    return total / number if number else math.nan


def validation_rows(
    corpus: Corpus,
    sequence: int,
    data: Data,
    num_rows: int,
    micro_batch: int,
    rank: int,
    num_ranks: int,
    draw: int,
    objective: Objective = "mlm",
) -> list[Batch]:
    """This rank's part of the validation rows. Each counts once, on any number of ranks. `draw`: the run's."""
    how = data.masking, num_rows, micro_batch, rank, num_ranks, data.sampling, draw, objective
    return validation_batches(corpus, sequence, *how)
