"""How fast this machine is, where no run tells: some steps of a recipe's last stage, the dearest."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pretrain.profile.rows import with_rows
from pretrain.profile.verb import Profile
from pretrain.recipe import load_recipe

TRIAL_STEPS = 4


def trial_flops_per_second(recipe: str, overrides: Sequence[str], nproc: int | None, here: bool = False) -> float:
    """FLOP/s of `nproc` ranks on every node of the SLURM job (None: one for each GPU), or on this machine; `here`: on
    this machine alone, job or not. Rows are made up where the recipe's corpus does not exist."""
    with TemporaryDirectory(prefix="espalier-") as folder:
        stage = len(load_recipe(recipe).stages) - 1
        trial = Profile(recipe, (), stage, nproc, TRIAL_STEPS, Path(folder), profiled=0, here=here)
        given, _ = with_rows(recipe, (*overrides, "validation.rows=8"), stage, trial.ranks(), [], Path(folder))
        return trial.run("trial", given).useful_flops_per_second
