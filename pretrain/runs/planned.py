"""What is checked of a run that is planned: the same for one plan and for a sweep. Trains nothing, writes nothing."""

from pathlib import Path

from pretrain.data import Corpus
from pretrain.interop.teacher import check_folder_teachers
from pretrain.recipe import Run
from pretrain.recipe.checks.pilots import check_pilots
from pretrain.recipe.checks.saved_states import check_saved_states
from pretrain.recipe.checks.stage_rules import check_lengths
from pretrain.settings.hub import local_folder


def check_planned(run: Run, corpus: Corpus | None, trust_pickle: bool = False) -> None:
    """Raises UserError for what `train` would refuse of a run, as far as it can be told from files that are there.
    `corpus` None: it does not exist yet."""
    check_lengths(run)
    check_folder_teachers(run, corpus.tokenizer_hash if corpus else None)
    check_saved_states(run)
    check_pilots(run, corpus.vocab_size if corpus else None)
    start = start_of(run)
    if start and start.exists():
        from pretrain.interop.importing import check_start

        check_start(start, run.stages[0].config, trust_pickle)


def start_of(run: Run) -> Path | None:
    """The folder whose weights it starts from."""
    return local_folder(Path(run.recipe.start)) if run.recipe.start else None
