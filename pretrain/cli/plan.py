"""The verb `plan`."""

from pathlib import Path

from pretrain.cli.arguments import Overrides, RecipeName


def plan(recipe: RecipeName, /, overrides: Overrides = (), nproc: int = 1, trust_pickle: bool = False) -> None:
    """Print what a recipe will do and what it costs. Trains nothing.

    Shapes, parameters, FLOPs, bytes on each rank, and the learning rate, stage by stage.

    Args:
        recipe: A recipe file, or the name of a recipe that ships with Espalier.
        overrides: Override a value of the recipe, for example --set stages.1.steps=200.
        nproc: Number of processes to plan for.
        trust_pickle: Read pickled weights to start from (DeepSpeed's) even if that may run code: trust their author.
    """
    from pretrain.cost.plan import print_plan
    from pretrain.data import Corpus
    from pretrain.launch.gpus import count_gpus
    from pretrain.recipe import load_recipe, resolve
    from pretrain.recipe.checks.saved_states import check_saved_states
    from pretrain.recipe.checks.stage_rules import check_lengths
    from pretrain.recipe.precision import precision_in_words
    from pretrain.recipe.ranks import idle_ranks, usable_ranks
    from pretrain.runs.forecast import forecast_lines, known_speed
    from pretrain.runs.lead_time import lead_lines, measured
    from pretrain.settings.hub import local_folder

    loaded = load_recipe(recipe, overrides)
    corpus = Corpus.open(loaded.data.corpus) if Path(loaded.data.corpus).exists() else None
    run = resolve(loaded, corpus.vocab_size if corpus else None, usable_ranks(loaded, nproc))
    check_lengths(run)
    check_saved_states(run)
    start = local_folder(Path(loaded.start)) if loaded.start else None
    if start and start.exists():
        from pretrain.interop.importing import check_start

        check_start(start, run.stages[0].config, trust_pickle)
    print_plan(run, on_cpu=count_gpus() == 0)
    if line := precision_in_words(loaded, run.recipe):
        print(line)
    print(*forecast_lines(run, corpus, known_speed(Path("runs"), loaded.name)), sep="\n")
    if line := idle_ranks(loaded, nproc):
        print(line)
    for line in lead_lines(measured(Path("runs", loaded.name)), loaded.faults.signals):
        print(line)
    if start and not start.exists():
        print(f"start {start} does not exist yet: it was not checked")
    if corpus is None:
        print(f"corpus {loaded.data.corpus} does not exist yet: planned with the vocabulary of the recipe, or BERT's")
