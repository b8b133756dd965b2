"""Whether the pilots of `until: mixing` can be trained."""

from pretrain.recipe.checks.saved_states import check_saved_states
from pretrain.recipe.pilots import naming, pilots
from pretrain.recipe.resolve import resolve
from pretrain.recipe.run import Run


def check_pilots(run: Run, vocab_size: int | None) -> None:
    """Raises UserError that names the pilot, for a run that asks for some."""
    for name, pilot in pilots(run).items():
        with naming(name):
            check_saved_states(resolve(pilot, vocab_size, run.num_ranks))
