"""Whether what a stage predicts fits its rows and its clock."""

from model.errors import UserError
from pretrain.recipe.run import ResolvedStage, Unit
from pretrain.recipe.schema import Data, Stage


def check_objective(asked: Stage, stage: ResolvedStage, data: Data, unit: Unit) -> None:
    """Raises UserError for keys of a stage that mean nothing together."""
    if stage.causal and data.sentence_pairs != "none":
        raise UserError(
            f"objective clm predicts text that goes on, and data.sentence_pairs {data.sentence_pairs} joins texts that "
            "do not; set data.sentence_pairs none, or objective mlm"
        )
    if stage.causal and (asked.masking.rate or asked.masking.end):
        raise UserError("masking is for objective mlm, and this stage has clm, which masks nothing; remove masking")
    if asked.masking.end is not None and unit == "seconds":
        raise UserError(
            f"masking.end {asked.masking.end} falls step by step, and this run is measured in hours; give masking.rate "
            "alone, or measure the run in steps"
        )
    if asked.masking.end is not None and stage.until:
        raise UserError(
            f"masking.end {asked.masking.end} falls over the whole stage, which a rule may end early; give "
            "masking.rate alone, or remove the rule"
        )
    if asked.masking.end is not None and asked.split:
        raise UserError(
            f"masking.end {asked.masking.end} needs a stage that stays whole, and split divides this one; leave one of "
            "them out"
        )
    if stage.config.uses("mlm_layer") and (data.sentence_pairs == "none" or not stage.sentence_objective):
        raise UserError(
            f"mlm_layer {stage.config.mlm_layer} leaves the layers above it to the sentence objective, which this "
            "stage does not train; set data.sentence_pairs and sentence_objective true, or leave it out"
        )
    if asked.sentence_objective is not None and data.sentence_pairs == "none":
        raise UserError(
            f"sentence_objective {str(asked.sentence_objective).lower()} needs sentence pairs, and data.sentence_pairs "
            "is none; remove it"
        )
