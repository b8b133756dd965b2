"""The command line: one function a verb, each a thin call. A user's mistake is one line and exit code 2."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from model.errors import UserError, nearest
from pretrain.cli.arguments import check_counts, read_span, run_verb
from pretrain.data.text.prepare import PrepareOptions
from pretrain.engine import signals
from pretrain.engine.exits import Stop, leave
from pretrain.runs.outputs import check_file, check_folder

# Every verb imports what it needs itself, so that `--help` and `plan` do not wait for torch.

RecipeName = Annotated[Positional[str], arg(name="recipe", metavar="RECIPE")]
CheckpointPath = Annotated[Positional[Path], arg(name="checkpoint", metavar="CHECKPOINT")]
Overrides = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")]


def plan(recipe: RecipeName, /, overrides: Overrides = (), nproc: int = 1) -> None:
    """Print what a recipe will do: shapes, parameters, FLOPs, bytes on each rank, learning rate. Trains nothing.

    Args:
        recipe: A recipe file, or the name of one that comes with Espalier.
        overrides: Change a value of the recipe, for example --set stages.1.steps=200.
        nproc: Number of processes to plan for.
    """
    from pretrain.cost.plan import print_plan
    from pretrain.data import Corpus
    from pretrain.recipe import load_recipe, resolve
    from pretrain.recipe.checks.saved_states import check_saved_states
    from pretrain.recipe.checks.stage_rules import check_lengths

    loaded = load_recipe(recipe, overrides)
    vocab_size = Corpus.open(loaded.data.corpus).vocab_size if Path(loaded.data.corpus).exists() else None
    run = resolve(loaded, vocab_size, nproc)
    check_lengths(run)
    check_saved_states(run)
    print_plan(run)
    if vocab_size is None:
        print(f"corpus {loaded.data.corpus} does not exist yet: planned with the recipe's vocabulary, or BERT's")


def prepare(corpus: Annotated[PrepareOptions, OmitArgPrefixes], check: Path | None = None, show: int = 0) -> None:
    """Turn text into a corpus to train on: documents, a vocabulary, shards of tokens, a part kept for validation.

    Args:
        check: Prepare nothing; read this prepared corpus whole and compare it with its manifest.
        show: Print this many rows of the corpus, decoded, with their masks.
    """
    from pretrain.data.inspection import check_corpus, show_samples
    from pretrain.data.text.console import print_counts, shown_progress
    from pretrain.data.text.prepare import prepare as prepare_corpus

    if check:
        print(f"{check} is whole: " + ", ".join(f"{count:,} {unit}" for unit, count in check_corpus(check).items()))
    else:
        with shown_progress() as progress:
            manifest = prepare_corpus(corpus, progress)
        print_counts(corpus.output, manifest)
    for row in show_samples(check or corpus.output, show) if show else ():
        print(row)


def train(
    recipe: RecipeName,
    /,
    overrides: Overrides = (),
    name: str | None = None,
    runs: Path = Path("runs"),
    nproc: int = 1,
    profile_steps: str = "",
    dry_run: bool = False,
) -> None:
    """Train a recipe, or go on with it from the last checkpoint in its folder.

    Args:
        recipe: A recipe file, or the name of one that comes with Espalier.
        overrides: Change a value of the recipe, for example --set stages.1.steps=200.
        name: The run's folder under --runs; the recipe's name when left out.
        runs: Where the folders of runs are.
        nproc: Number of processes to start (default: one for each GPU, or 2 on a machine without).
        profile_steps: Profile these steps, such as 100:110, into the run's folder: a page, JSON and a trace.
        dry_run: Check everything, start nothing.
    """
    from pretrain.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    folder = runs / (name or loaded.name)
    span = read_span("--profile-steps", profile_steps)
    if dry_run:
        from pretrain.training.preflight import check_run

        check_run(loaded, nproc, folder)
    else:
        signals.listen(loaded.faults.signals)
        from pretrain.engine.distributed import process_group
        from pretrain.training.train import train as train_recipe

        with process_group():
            hooks = []
            if span:
                from pretrain.profile.hook import Profiler

                hooks.append(Profiler(*span, folder / "profile"))
            train_recipe(loaded, folder, hooks)


def evaluate(checkpoint: CheckpointPath, /, corpus: str | None = None, rows: int = 256) -> None:
    """Print validation loss and accuracy of a checkpoint.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        corpus: A prepared corpus; the one it was trained on when left out.
        rows: Validation rows to read.
    """
    from pretrain.engine.distributed import process_group
    from pretrain.training.train import evaluate_checkpoint

    check_counts(rows=[rows])
    with process_group():
        result = evaluate_checkpoint(checkpoint, corpus, rows)
    print(json.dumps({"valid_loss": result.loss, "valid_accuracy": result.accuracy, "rows": rows}))


def fill(
    checkpoint: CheckpointPath, text: Annotated[Positional[str], arg(name="text", metavar="TEXT")], /, guesses: int = 5
) -> None:
    """Print what a trained model puts in the place of [MASK], the likeliest first.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        text: A sentence with [MASK] in the place of a word.
        guesses: How many answers to print.
    """
    from pretrain.use.fill import Filler, fill_text
    from pretrain.use.trained import open_trained

    check_counts(guesses=[guesses])
    trained = open_trained(checkpoint)
    for probability, filled in fill_text(Filler(trained.model, trained.vocabulary), text, guesses):
        print(f"{probability:6.1%}  {filled}")


def profile(
    recipe: RecipeName = "",
    /,
    overrides: Overrides = (),
    stage: int = 0,
    nproc: int = 1,
    steps: int = 10,
    sweep: str = "",
    scaling: str = "",
    measure_peak: bool = False,
    against: Literal["nothing", "huggingface"] = "nothing",
    rounds: int = 5,
    json_file: Annotated[Path | None, arg(name="json")] = None,
    out: Path = Path("profiles"),
) -> None:
    """Measure where a training step's time goes. Writes a page, JSON and a trace that opens in Perfetto.

    Args:
        recipe: A recipe file, or the name of one that comes with Espalier. Not needed with --against.
        overrides: Change a value of the recipe, for example --set batch.micro=16.
        stage: Which of its stages, by number.
        nproc: Number of processes.
        steps: Steps to time, after warm-up and before three under the profiler.
        sweep: Measure every combination of these: micro_batch, zero, tp, separated by commas.
        scaling: Measure strong and weak scaling on these numbers of processes, such as 1,2.
        measure_peak: Measure what the device can do at best, and show the share of it.
        against: huggingface: our step beside that of transformers, and the table of targets.
        rounds: Rounds of the comparison; each runs everything once.
        json_file: Also write the rows of the comparison here.
        out: Folder for the results.
    """
    check_counts(steps=[steps], rounds=[rounds])
    check_folder("--out", out)
    check_file("--json", json_file, "rows.json")
    if against == "huggingface":
        from pretrain.profile.table import profile_against_hugging_face

        profile_against_hugging_face(rounds, out, json_file)
        return
    if not recipe:
        raise UserError("profile needs a recipe, or --against huggingface; for example: ./launch.sh profile base")
    from pretrain.profile.verb import Profile, matmul_limit, print_breakdown, print_measurements, save

    job = Profile(recipe, tuple(overrides), stage, nproc, steps, out)
    if sweep:
        found = job.sweep(sweep.split(","))
    elif scaling:
        found = job.scaling([int(count) for count in scaling.split(",")])
    else:
        found = {f"stage {stage}": job.run(f"stage-{stage}")}
        print_breakdown(next(iter(found.values())))
    print_measurements(found, matmul_limit() if measure_peak else None)
    save(found, out, f"{recipe}, stage {stage}")


def export(checkpoint: CheckpointPath, /, output: Path | None = None, corpus: str | None = None) -> None:
    """Write a checkpoint as a folder that Hugging Face transformers opens: model, tokenizer, model card.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        output: The folder to write; `huggingface` in the run's folder when left out.
        corpus: The prepared corpus whose tokenizer goes along; the one it was trained on when left out.
    """
    from pretrain.use.export import export as export_checkpoint

    print(export_checkpoint(checkpoint, output, corpus))


def grow(
    checkpoint: CheckpointPath,
    /,
    out: Path,
    to: UseAppendAction[tuple[str, ...]] = (),
    operator: UseAppendAction[tuple[str, ...]] = (),
) -> None:
    """Change the shape of a saved state offline: weights, moments and steps, as a stage's `grow` does in memory.

    Args:
        checkpoint: A run's folder, one of its checkpoints, or a BERT saved by Hugging Face transformers.
        out: The folder to write, a checkpoint.
        to: The shape to reach: a preset or FIELD=VALUE, for example --to layers=12 --to ffn=3072.
        operator: In order, for example --operator stack --operator '{widen: {axis: ffn}}'; left out, as `grow: auto`.
    """
    from pretrain.engine.distributed import process_group
    from pretrain.use.grow import grow as grow_checkpoint

    with process_group():
        source, target = grow_checkpoint(checkpoint, to, operator, out)
    if os.environ.get("RANK", "0") == "0":
        print(f"{out}: {source.summary()} -> {target.summary()}")


def report(run: Annotated[Positional[Path], arg(name="run", metavar="RUN")], /, output: Path | None = None) -> None:
    """Write one HTML page of a run, finished or not: curves, stages, changes of shape. It needs no network.

    Args:
        run: A run's folder.
        output: The file to write; `report.html` in the run's folder when left out.
    """
    from pretrain.runs.report import write_report

    check_file("--output", output, "report.html")
    print(write_report(run, output))


def finetune(
    checkpoint: CheckpointPath,
    /,
    task: str,
    data: Path | None = None,
    seeds: int = 5,
    lr: tuple[float, ...] = (),
    batch: tuple[int, ...] = (),
    epochs: tuple[int, ...] = (),
    grid: str | None = None,
    max_length: int | None = None,
    num_examples: int | None = None,
    from_scratch: bool = False,
    pooling: Literal["cls", "mean"] = "cls",
    dropout: float | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    output: Path | None = None,
) -> None:
    """Fine-tune a checkpoint on a task of GLUE or on SQuAD, with several seeds; print the official metrics.

    Args:
        checkpoint: A run's folder, one of its checkpoints/step-N, or a folder of Hugging Face transformers.
        task: sst2, cola, mrpc, stsb, rte, wnli, qnli, qqp, mnli, squad or squad2.
        data: A folder with GLUE's .tsv or SQuAD's .json files; the Hugging Face Hub when left out.
        seeds: How many seeds, from 0 on: they decide new weights, the order of the data and dropout.
        lr: Peak learning rates, 5e-5 when left out; every combination with --batch and --epochs is run.
        batch: Examples in a step, 32 when left out.
        epochs: Passes over the training data, 3 when left out.
        grid: What a paper searched, instead of these three: devlin, roberta, turc or swe.
        max_length: Tokens of an example; 128, or 384 for SQuAD, when left out.
        num_examples: Train on so many examples only; for SQuAD, questions.
        from_scratch: Start from random weights instead, to compare.
        pooling: What a sentence is told by: the state of [CLS], or the mean of all its tokens' states.
        dropout: Share of states and attention dropped in training; the checkpoint's own when left out (BERT: 0.1).
        precision: bf16 where a GPU has it, else fp32, when left out.
        output: A JSON file for the results.
    """
    from pretrain.finetune import run
    from pretrain.finetune.results import table, write_results
    from pretrain.finetune.tasks import GRIDS, Grid

    if grid is not None and grid not in GRIDS:
        raise UserError(f"grid {grid!r} is unknown{nearest(grid, GRIDS)}; choose one of {', '.join(GRIDS)}")
    if grid and (lr or batch or epochs):
        raise UserError(f"--grid {grid} says which --lr, --batch and --epochs to try; leave out these, or --grid")
    check_counts(seeds=[seeds], num_examples=[num_examples], max_length=[max_length], batch=batch, epochs=epochs)
    run.check_rates(lr)
    run.check_dropout(dropout)
    check_file("--output", output, "results.json")
    settings = (GRIDS[grid] if grid else Grid(lr or (5e-5,), batch or (32,), epochs or (3,))).settings()
    how = {
        **{"data": data, "max_length": max_length, "num_examples": num_examples, "from_scratch": from_scratch},
        **{"precision": precision, "pooling": pooling, "dropout": dropout},
    }
    about = {"checkpoint": str(checkpoint), "task": task, **how, "data": data and str(data)}
    results = []
    for result in run.finetune(checkpoint, task, settings, range(seeds), **how):
        results.append(result)
        print(f"{result.settings}: {result.seconds:.0f} s", file=sys.stderr)
        if output is not None:
            write_results(output, about, results)
    print(table(results))


def doctor() -> int:
    """Print what this environment has, what is wanted, and what the difference changes. Installs nothing."""
    from pretrain.cli import doctor as examination

    sys.exit(examination.main([]))


def compare(
    folders: Annotated[Positional[tuple[Path, ...]], arg(name="runs", metavar="RUN")] = (),
    /,
    recipes: str = "",
    seeds: int = 3,
    minutes: float = 60.0,
    overrides: Overrides = (),
    runs: Path = Path("runs"),
    nproc: int = 1,
    scale: str = "mini",
    baseline: str = "",
    out: Path = Path("compare"),
) -> None:
    """Compare finished runs: what each method costs beside from-scratch runs that reach the same loss.

    Args:
        folders: Folders of finished runs: the target shape from scratch at several budgets, and the methods.
        recipes: Instead of folders: recipes to train first, separated by commas; finished ones are not trained again.
        seeds: Seeds for each recipe.
        minutes: How long to train at most; what is cut off goes on next time.
        overrides: Change a value of every recipe, for example --set data.corpus=corpora/mine.
        runs: Where the folders of runs are.
        nproc: Number of processes for each run.
        scale: A word for the size of the models, kept in the JSON.
        baseline: Recipes to measure against, by their names, separated by commas. Left out: the target in one stage.
        out: Folder for table, picture, page and JSON.
    """
    from pretrain.compare.training import check_comparable, train_missing
    from pretrain.compare.verb import compare as compare_runs

    check_counts(seeds=[seeds])
    check_folder("--out", out)
    if recipes:
        check_comparable(recipes.split(","), overrides, nproc)
        folders = tuple(train_missing(recipes.split(","), seeds, overrides, minutes, runs, nproc))
    compare_runs(folders, out, scale, baseline.split(",") if baseline else ())


VERBS = {
    verb.__name__: verb
    for verb in (prepare, plan, train, evaluate, fill, profile, compare, grow, export, report, finetune, doctor)
}

DESCRIPTION = """Espalier pretrains BERT while its shape changes, and loses nothing on the way.

Without a verb, ./launch.sh runs the demo (`demo`): a few minutes of pretraining with two changes of shape, on two
processes. `./launch.sh test` runs the test suite and passes its arguments to pytest.
"""


def main(arguments: list[str]) -> int:
    """Runs one verb and returns the exit code."""
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
            known = ", ".join(["demo", "test", *VERBS])
            raise UserError(f"verb {arguments[0]!r} is unknown{nearest(arguments[0], VERBS)}; choose one of {known}")
        run_verb(VERBS, arguments, "./launch.sh", DESCRIPTION)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"espalier: {error}", file=sys.stderr)
        return leave(error.code) if isinstance(error, Stop) else 2
    except KeyboardInterrupt:  # of `train` only before it listens for signals
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        signals.stop_listening()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
