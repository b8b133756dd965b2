"""How fast this machine is, where no run tells: some steps of a recipe's last stage, the dearest."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pretrain.profile.rows import with_rows
from pretrain.profile.verb import Profile
from pretrain.recipe import load_recipe

TRIAL_STEPS = 4


def trial_flops_per_second(recipe: str, overrides: Sequence[str], num_ranks: int) -> float:
    """FLOP/s of all ranks. Rows are made up where the recipe's corpus does not exist."""
    with TemporaryDirectory(prefix="espalier-") as folder:
        stage = len(load_recipe(recipe).stages) - 1
        given, _ = with_rows(recipe, (*overrides, "validation.rows=8"), stage, num_ranks, [], Path(folder))
        trial = Profile(recipe, given, stage, num_ranks, TRIAL_STEPS, Path(folder), profiled=0)
        return trial.run("trial").useful_flops_per_second
