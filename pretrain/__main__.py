"""The command line: one function a verb, each a thin call. A user's mistake is one line and exit code 2."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from model.errors import UserError, nearest
from pretrain.data.prepare import PrepareOptions
from pretrain.exits import Stop, leave

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
    from pretrain.data import Corpus
    from pretrain.plan import print_plan
    from pretrain.recipe import load_recipe, resolve

    loaded = load_recipe(recipe, overrides)
    vocab_size = Corpus.open(loaded.data.corpus).vocab_size if Path(loaded.data.corpus).exists() else None
    print_plan(resolve(loaded, vocab_size, nproc))
    if vocab_size is None:
        print(f"corpus {loaded.data.corpus} does not exist yet: planned with the recipe's vocabulary, or BERT's")


def prepare(corpus: Annotated[PrepareOptions, OmitArgPrefixes]) -> None:
    """Turn text into a corpus to train on: documents, a vocabulary, shards of tokens, a part kept for validation."""
    from pretrain.data import Progress
    from pretrain.data import prepare as prepare_corpus

    def show(progress: Progress) -> None:
        whole = f" of {progress.total_megabytes:,.0f}" if progress.total_megabytes else ""
        print(
            f"{progress.phase}: {progress.megabytes:,.1f}{whole} MB, {progress.num_documents:,} documents, "
            f"{progress.seconds:.0f} s",
            file=sys.stderr,
        )

    manifest = prepare_corpus(corpus, show)
    counts = ", ".join(f"{held['num_tokens']:,} tokens to {split}" for split, held in manifest["splits"].items())
    print(f"{corpus.output}: vocabulary of {manifest['tokenizer']['vocab_size']:,}; {counts}")


def train(
    recipe: RecipeName,
    /,
    overrides: Overrides = (),
    name: str | None = None,
    runs: Path = Path("runs"),
    nproc: int = 1,
    dry_run: bool = False,
) -> None:
    """Train a recipe, or go on with it from the last checkpoint in its folder.

    Args:
        recipe: A recipe file, or the name of one that comes with Espalier.
        overrides: Change a value of the recipe, for example --set stages.1.steps=200.
        name: The run's folder under --runs; the recipe's name when left out.
        runs: Where the folders of runs are.
        nproc: Number of processes to start (default: one for each GPU, or 2 on a machine without).
        dry_run: Check everything, start nothing.
    """
    from pretrain import signals
    from pretrain.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    folder = runs / (name or loaded.name)
    if dry_run:
        from pretrain.preflight import check_run

        check_run(loaded, nproc, folder)
    else:
        signals.listen(loaded.faults.signals)
        from pretrain.engine.distributed import process_group
        from pretrain.train import train as train_recipe

        with process_group():
            train_recipe(loaded, folder)


def evaluate(checkpoint: CheckpointPath, /, corpus: str | None = None, rows: int = 256) -> None:
    """Print validation loss and accuracy of a checkpoint.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        corpus: A prepared corpus; the one it was trained on when left out.
        rows: Validation rows to read.
    """
    from pretrain.engine.distributed import process_group
    from pretrain.train import evaluate_checkpoint

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
    from pretrain.fill import Filler, fill_text
    from pretrain.trained import open_trained

    trained = open_trained(checkpoint)
    for probability, filled in fill_text(Filler(trained.model, trained.corpus), text, guesses):
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
    from pretrain.export import export as export_checkpoint

    print(export_checkpoint(checkpoint, output, corpus))


def report(run: Annotated[Positional[Path], arg(name="run", metavar="RUN")], /, output: Path | None = None) -> None:
    """Write one HTML page of a run, finished or not: curves, stages, changes of shape. It needs no network.

    Args:
        run: A run's folder.
        output: The file to write; `report.html` in the run's folder when left out.
    """
    from pretrain.report import write_report

    print(write_report(run, output))


VERBS = {verb.__name__: verb for verb in (prepare, plan, train, evaluate, fill, profile, export, report)}

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
        tyro.extras.subcommand_cli_from_dict(VERBS, args=arguments, prog="./launch.sh", description=DESCRIPTION)
    except Stop as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"espalier: {stop}", file=sys.stderr)
        return leave(stop.code)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"espalier: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
