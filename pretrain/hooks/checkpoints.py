"""Saves the run every so many steps, just before a change of shape, and at the end."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch.distributed as dist

from pretrain.checkpoint import save_checkpoint
from pretrain.engine.exchange import read_state
from pretrain.engine.move import loss_scaler_state
from pretrain.hooks.base import Hook, StepResult
from pretrain.run_folder import RunFolder

if TYPE_CHECKING:
    from pretrain.trainer import Trainer


class Checkpoints(Hook):
    """On every rank."""

    def __init__(self, folder: RunFolder, every: int, keep_last: int, recipe: dict):
        self.folder, self.every, self.keep_last, self.recipe = folder, every, keep_last, recipe

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        last_of_stage = trainer.now >= trainer.stage.end
        if last_of_stage or (self.every and result.step % self.every == 0):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        trainer.progress.loss_scaler = loss_scaler_state(trainer.engine)
        run = {
            "progress": trainer.progress.to_json(),
            "recipe": self.recipe,
            "corpus": str(trainer.corpus.directory.resolve()),
            "tokenizer": trainer.corpus.tokenizer_hash,
            "sequence": trainer.stage.sequence,
            "hooks": {hook.name: hook.state() for hook in trainer.hooks if hook.name},
        }
        path = self.folder.checkpoints / f"step-{trainer.progress.step:08d}"
        save_checkpoint(path, read_state(trainer.engine), run)
        if dist.get_rank() == 0:
            complete = sorted(self.folder.checkpoints.glob("step-" + "[0-9]" * 8))
            for old in complete[: -self.keep_last]:
                shutil.rmtree(old)
