"""Draws the run's loss curve when it ends."""

from pretrain.data import unigram_baseline
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Hook, TrainerView


class LossPicture(Hook):
    """On rank 0 only, after Metrics: it draws what that has written."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_end(self, trainer: TrainerView) -> None:
        from pretrain.runs.plot import plot_loss  # matplotlib is slow to import, and only the end needs it

        recipe = trainer.run.recipe
        unigram_loss, _ = unigram_baseline(
            trainer.corpus, trainer.stage.sequence, recipe.data.masking, recipe.validation.rows, recipe.data.sampling
        )
        plot_loss(self.folder.metrics, self.folder.plot, unigram_loss)
