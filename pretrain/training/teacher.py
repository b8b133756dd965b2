"""The frozen teacher of a stage that aligns a layer (`align`): opened for its first step, let go once its weight is 0.

It belongs to the engine's model, so a move lets it go, too, and opens it again in the new layout.
"""

from pathlib import Path

from model.alignment import Alignment
from model.bert import BertForPreTraining
from pretrain.engine.build import PRECISIONS
from pretrain.engine.frozen import frozen_model
from pretrain.interop.teacher import read_teacher
from pretrain.training.events import TrainerView


def provide_teacher(trainer: TrainerView) -> None:
    """Gives the engine's model the teacher of the next step, or none. Collective where one is opened."""
    model, stage, align = trainer.engine.module, trainer.stage, trainer.stage.align
    if align is None or not align.weight_at(trainer.now):
        model.alignment = None
        return
    layer, given = align.layer_of(stage.config), model.alignment
    if given is None or (given.name, given.layer) != (align.teacher, layer):
        model.alignment = None  # before the next one takes memory
        model.alignment = Alignment(align.teacher, _open(trainer, align.teacher).encode, layer)


def _open(trainer: TrainerView, name: str) -> BertForPreTraining:
    stage, checkpoints = trainer.stage, trainer.checkpoints
    path = checkpoints / name if checkpoints and name in trainer.run.saved_states else Path(name)
    config, weight_of = read_teacher(path)
    divided = stage.zero_stage == 3 and stage.data_parallel > 1
    return frozen_model(config, weight_of, trainer.engine.module.tp, PRECISIONS[stage.precision], divided)
