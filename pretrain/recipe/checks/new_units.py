"""Whether the new units of a stage can begin without state, with a step count and a learning rate of their own."""

from model.errors import UserError
from pretrain.recipe.run import ResolvedStage

POLICY = "new_units"


def check_new_units(stage: ResolvedStage) -> None:
    """Raises UserError for what would not be exact, or would have no effect."""
    rate, chosen = stage.new_unit_rate, stage.optimizer.chosen
    if not stage.starts_new_units:
        if rate.lr_scale != 1 or rate.steps:
            raise UserError(
                "schedule.new_units is for units that begin without state; give the operator, widen or tile_ffn, the "
                "option moments: new_units, or remove it"
            )
        return
    if len(stage.grow) > 1:
        raise UserError(
            f"moments new_units goes with no other operator ({', '.join(each.name for each in stage.grow)}): it would "
            "have to know what that makes of new units; give the other one its own stage, or choose moments: reset"
        )
    if not chosen.steps_elementwise:
        raise UserError(
            f"moments new_units does not go with {chosen.name}, which scales a whole tensor by one norm: new units "
            "cannot have steps and a learning rate of their own; choose adamw or muon in this stage, or moments: reset"
        )
    if stage.config.frozen_layers:
        raise UserError(
            "moments new_units does not go with frozen_layers: units that take no steps would count them; remove one"
        )
    if rate.lr_scale != 1 and not rate.steps:
        raise UserError(
            f"schedule.new_units.lr_scale is {rate.lr_scale:g} for no steps; give schedule.new_units.steps, such as 250"
        )
