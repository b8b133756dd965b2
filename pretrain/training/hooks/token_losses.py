"""Keeps the table of losses by which token dropping chooses tokens, and hands it to the model of each stage."""

import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from model.variants.token_dropping.table import LossTable
from pretrain.engine.distributed import device
from pretrain.training.events import GrowthEvent, Hook, StepResult, TrainerView


class TokenLosses(Hook):
    """The table is `Progress.token_losses`, so checkpoints keep it. Stages that drop nothing leave it as it is."""

    def on_start(self, trainer: TrainerView) -> None:
        _hand_over(trainer)

    def on_growth(self, trainer: TrainerView, event: GrowthEvent) -> None:
        _hand_over(trainer)

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        settings = trainer.stage.config.token_dropping
        if settings is not None:
            table, sums = _table(trainer), _sums_of_all(trainer.engine)
            trainer.progress.token_losses = table.after(sums, settings.beta)
            _hand_over(trainer)


def _table(trainer: TrainerView) -> LossTable:
    return trainer.progress.token_losses or LossTable.fresh(trainer.stage.config.vocab_size)


def _hand_over(trainer: TrainerView) -> None:
    """Gives the model what it ranks tokens by."""
    if trainer.stage.config.token_dropping is not None:
        special = trainer.corpus.special
        kept = (special.unk, special.cls, special.sep, special.mask)
        trainer.engine.module.token_losses.importance = _table(trainer).importance(kept)


def _sums_of_all(engine: DeepSpeedEngine) -> Tensor:
    """The step's losses by entry of the vocabulary, and how many, over the global batch: [2, V] fp64.

    One sum over all ranks, so that every rank gets the same bits and keeps the same tokens. Those of a tensor-parallel
    group add the same: losses and counts by one factor, and the table takes their ratio.
    """
    sums: Tensor = engine.module.token_losses.sums.to(device())
    dist.all_reduce(sums)
    return sums
