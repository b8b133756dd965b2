"""Reports the slimming coefficients (EarlyBERT) as they train: which heads and units the model could do without."""

import torch

from pretrain.engine.coefficients import coefficients
from pretrain.training.events import Hook, StepResult, TrainerView

QUANTILES = torch.linspace(0, 1, 11)


class Coefficients(Hook):
    """Writes the event `coefficients` in every step, by layer.

    It holds the coefficient of every head, and the 0%, 10%, ... 100% quantiles of a feed-forward network's many units.
    """

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        config = trainer.stage.config
        if config.slimming is None:
            return
        held = coefficients(trainer.engine)
        blocks = [config.block_of(layer) for layer in range(config.layers)]
        values = {
            "heads": [held[f"blocks.{block}.attention.coefficients"].tolist() for block in blocks],
            "ffn quantiles": [
                held[f"blocks.{block}.feedforward.coefficients"].quantile(QUANTILES).tolist() for block in blocks
            ],
        }
        event = {"event": "coefficients", "step": result.step, "stage": result.stage, "values": values}
        trainer.call("on_event", event)
