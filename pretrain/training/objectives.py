"""A change of objective between two stages: the losses under both objectives, before it and after it.

The weights stay what they are unless operators change them at the same time, and so do the moments. The same where an
objective moves to another layer.
"""

import math
from typing import get_args

from pretrain.data.objective import Objective
from pretrain.recipe import ResolvedStage
from pretrain.training.evaluation import evaluate
from pretrain.training.events import Evaluation, TrainerView

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


def report_heads(trainer: TrainerView, previous: ResolvedStage, before: Evaluation, after: Evaluation) -> None:
    """The event `heads`, if a head reads another layer than in the stage `previous`: both losses on the same rows."""
    step, stage = trainer.progress.step, trainer.stage
    moves = {
        objective: [_in_words(getattr(config, field), config.layers) for config in (previous.config, stage.config)]
        for objective, field in (("sentence", "sentence_layer"), ("mlm", "mlm_layer"))
    }
    told = [f"the {objective} head goes from {old} to {new}" for objective, (old, new) in moves.items() if old != new]
    if not told:
        return
    loss_before, loss_after = _by_objective(before), _by_objective(after)
    losses = ", ".join(
        f"{each} {loss_before[each]:.3f} -> {loss_after[each]:.3f}" for each in loss_before if each in loss_after
    )
    event = {
        "event": "heads",
        "step": step,
        "stage": stage.name,
        "loss_before": loss_before,
        "loss_after": loss_after,
        "message": f"step {step:,}: {' and '.join(told)}; loss at the change: {losses}",
    }
    trainer.call("on_event", event)


def _in_words(layer: int | None, num_layers: int) -> str:
    return "the last layer" if layer in (None, num_layers) else f"layer {layer}"


def _by_objective(evaluation: Evaluation) -> dict[str, float]:
    """Those that were measured."""
    measured = {"mlm": evaluation.loss, "sentence": evaluation.sentence_loss}
    return {objective: loss for objective, loss in measured.items() if not math.isnan(loss)}
