"""The rows that `profile` measures: those of the recipe's corpus, or made-up ones of given lengths."""

from collections.abc import Sequence
from pathlib import Path

from model.errors import UserError
from pretrain.data import Corpus
from pretrain.profile.synthetic import synthetic_corpus
from pretrain.recipe import Run, load_recipe, resolve


def with_rows(
    recipe: str, overrides: tuple[str, ...], stage: int, num_ranks: int, lengths: Sequence[int], out: Path
) -> tuple[tuple[str, ...], str | None]:
    """The overrides with which the recipe has rows to read, and a line that says so where they are made up.

    They are if the recipe's corpus does not exist, or if `lengths` (in tokens) are asked for; by default they are full.
    """
    loaded = load_recipe(recipe, overrides)
    data = loaded.data
    exists = Path(data.corpus).exists()
    if exists and not lengths:
        return overrides, None
    run = resolve(loaded, Corpus.open(data.corpus).vocab_size if exists else None, num_ranks)
    check_stage(run, stage)
    longest, shortest = run.stages[stage].sequence, data.sampling.shortest_row
    for length in lengths:
        if not shortest <= length <= longest:
            raise UserError(f"--lengths {length}: a row of this stage has {shortest} to {longest} tokens")
    pairs = "none" if data.sentence_pairs == "none" else "sop"  # nsp would take half of a row from another document
    sampling = data.sampling.model_copy(update={"sentence_pairs": pairs})
    corpus = synthetic_corpus(out, run.stages[stage].config.vocab_size, lengths or [longest], sampling)
    why = "as --lengths says" if lengths else f"corpus {data.corpus} does not exist"
    line = f"rows of {', '.join(map(str, lengths or [longest]))} made-up tokens: {why}"
    made_up = (f"data.corpus={corpus}", f"data.sentence_pairs={pairs}", "data.short_probability=0")
    return (*overrides, *made_up), line


def check_stage(run: Run, stage: int) -> None:
    """Raises UserError for the index of a stage that the run does not have."""
    if not 0 <= stage < len(run.stages):
        raise UserError(f"--stage {stage}: {run.recipe.name} has stages 0 to {len(run.stages) - 1}")
