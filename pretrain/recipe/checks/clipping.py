"""Whether each rank can clip its own gradient, and whether there will always be as many ranks (engine/clipping.py)."""

from model.errors import UserError
from pretrain.recipe.run import ResolvedStage
from pretrain.recipe.schema import Faults


def check_clipping(stage: ResolvedStage, faults: Faults) -> None:
    """Raises UserError for a ZeRO stage that has no whole gradient on a rank, and for ranks that come and go."""
    if not stage.clips_on_ranks:
        return
    if stage.zero_stage not in (1, 2):
        raise UserError(
            "optimizer.clip_bucket_mb is for ZeRO 1 and 2, where a rank's gradient can stay whole until it is reduced; "
            f"this stage has ZeRO {stage.zero_stage}: choose ds_configs/zero1.json or ds_configs/zero2.json, or leave "
            "clip_bucket_mb out"
        )
    if faults.min_nodes is not None and not faults.any_ranks:
        raise UserError(
            "optimizer.clip_bucket_mb does not go with faults.min_nodes (--nodes MIN:MAX): each rank clips the "
            "gradient of its own rows, so another number of ranks trains otherwise; leave one out, or allow that by "
            "faults.any_ranks: true"
        )
