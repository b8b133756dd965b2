"""Whether a stage can be aligned: its model, and the teacher beside it."""

from growth.operators.saved_state import INITIAL
from model.config import BertConfig
from model.errors import UserError
from pretrain.recipe.run import ResolvedStage
from pretrain.recipe.schema import Data

COMPUTES_SOME = "an inner layer computes only some of the tokens"
UNALIGNED = {
    "light_layers": "a light layer is computed together with the one below",
    "pool_window": "its layers compute pools of tokens, and the teacher computes tokens",
    "sub_models": "a step runs only some of the layers",
    "token_dropping": COMPUTES_SOME,
}
"""What the model in training must not have, with the reason."""


def check_alignment(stage: ResolvedStage) -> None:
    """Raises UserError for a model without the layer that is to be aligned."""
    if stage.align is None:
        return
    config, layer = stage.config, stage.align.layer_of(stage.config)
    if stage.align.teacher == INITIAL:
        raise UserError(
            f"align.teacher {INITIAL} is the model before its first step, which has nothing to teach; name a state "
            "that a stage keeps"
        )
    if layer > config.layers:
        raise UserError(
            f"align.layer {layer}: the model has {config.layers} layers; choose one of them, counted from 1"
        )
    if layer <= config.frozen_layers:
        raise UserError(
            f"align.layer {layer} is one of the {config.frozen_layers} frozen layers, so it cannot learn; choose one "
            "above them"
        )
    for key, reason in UNALIGNED.items():
        if config.uses(key):
            raise UserError(f"align and {key} do not go together: {reason}; leave one of them out")


def check_teacher(stage: ResolvedStage, teacher: BertConfig, data: Data) -> None:
    """Raises UserError for a teacher that cannot compute the rows of the stage, on its ranks."""
    assert stage.align is not None
    named = f"align.teacher {stage.align.teacher}"
    if teacher.vocab_size != stage.config.vocab_size:
        raise UserError(
            f"{named} has a vocabulary of {teacher.vocab_size:,} entries, the model of {stage.config.vocab_size:,}; "
            "choose a teacher that was trained on this corpus, or with its tokenizer"
        )
    if teacher.max_positions < stage.sequence:
        raise UserError(
            f"{named} has {teacher.max_positions} positions, and rows have {stage.sequence} tokens; shorten "
            "`sequence`, or choose another teacher"
        )
    if teacher.type_vocab == 1 and data.sentence_pairs != "none":
        raise UserError(
            f"{named} knows one token type, and data.sentence_pairs {data.sentence_pairs} has two; choose another "
            "teacher, or no sentence pairs"
        )
    if teacher.unfinished:
        raise UserError(f"{named}: {teacher.unfinished}; keep a later state")
    for key in ("light_layers", "pool_window"):
        if teacher.uses(key):
            raise UserError(f"{named} has {key}, and a teacher computes every layer whole; choose another teacher")
    for setting, reason in teacher.refused_with().items():
        if getattr(stage, setting):
            raise UserError(f"{named}: {reason}")
    try:
        teacher.check_tensor_parallel(stage.tensor_parallel)
    except UserError as error:
        raise UserError(f"{named}: {error}") from None
