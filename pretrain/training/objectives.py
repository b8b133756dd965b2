"""A change of objective between two stages: the losses under both objectives, before it and after it.

The weights stay what they are unless operators change them at the same time, and so do the moments.
"""

from typing import get_args

from pretrain.data.objective import Objective
from pretrain.recipe import ResolvedStage
from pretrain.training.evaluation import evaluate
from pretrain.training.events import TrainerView

Losses = dict[Objective, float]


def losses(trainer: TrainerView, stage: ResolvedStage, sequence: int) -> Losses:
    """Of the engine, which has the shape of `stage`, on probe rows of `sequence` tokens under every objective that this
    shape can compute. Collective."""
    measured: list[Objective] = ["mlm"] if "causal" in stage.config.refused_with() else list(get_args(Objective))
    return {each: evaluate(trainer.engine, trainer.probe(stage, sequence, each)).loss for each in measured}


def report_change(trainer: TrainerView, previous: ResolvedStage, before: Losses, after: Losses) -> None:
    """The event `objective`, with the losses of the trainer's stage beside those of the stage `previous`."""
    step, stage = trainer.progress.step, trainer.stage
    told = ", ".join(f"{each} {before[each]:.3f} -> {after[each]:.3f}" for each in before if each in after)
    change = f"{previous.objective} -> {stage.objective}"
    event = {
        "event": "objective",
        "step": step,
        "stage": stage.name,
        "objective_before": previous.objective,
        "objective": stage.objective,
        "loss_before": before,
        "loss_after": after,
        "message": f"step {step:,}: objective {change}; loss at the change: {told}",
    }
    trainer.call("on_event", event)
