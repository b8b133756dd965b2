"""Draws the run's loss curve when it ends."""

import sys

from pretrain.data import unigram_baseline
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.training.events import Hook, TrainerView


class LossPicture(Hook):
    """Draws what Metrics have written."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_end(self, trainer: TrainerView) -> None:
        from pretrain.runs.plot import plot_loss  # matplotlib is slow to import, and only the end needs it

        recipe = trainer.run.recipe
        how = recipe.data.masking, recipe.validation.rows, recipe.data.sampling, trainer.progress.position.draw
        unigram_loss, _ = unigram_baseline(trainer.corpus, trainer.stage.sequence, *how, trainer.stage.objective)
        try:
            plot_loss(History.read(self.folder.path), self.folder.plot, unigram_loss)
        except OSError as fault:
            print(f"espalier: no {self.folder.plot}: {fault.strerror}", file=sys.stderr)
