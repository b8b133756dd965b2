"""The verb `finetune`."""

import sys
from typing import Annotated, Any, Literal

from tyro.conf import arg

from model.errors import UserError, nearest
from pretrain.cli.arguments import CheckpointPath, check_counts
from pretrain.settings.options import OptionalFloat, OptionalInt, OptionalPath, OptionalStr

Rates = Annotated[tuple[float, ...], arg(metavar="FLOAT ...", help_behavior_hint="")]
Counts = Annotated[tuple[int, ...], arg(metavar="INT ...", help_behavior_hint="")]


def finetune(
    checkpoint: CheckpointPath,
    /,
    task: str,
    data: OptionalPath = None,
    seeds: int = 5,
    lr: Rates = (),
    batch: Counts = (),
    epochs: Counts = (),
    grid: OptionalStr = None,
    max_length: OptionalInt = None,
    num_examples: OptionalInt = None,
    from_scratch: bool = False,
    pooling: Literal["cls", "mean"] = "cls",
    dropout: OptionalFloat = None,
    precision: Annotated[Literal["fp32", "bf16"] | None, arg(metavar="{fp32,bf16}", help_behavior_hint="")] = None,
    output: OptionalPath = None,
) -> None:
    """Fine-tune a checkpoint on a GLUE task or on SQuAD.

    Trains with several seeds and prints the official metrics.

    Args:
        checkpoint: A run's folder, one of its checkpoints/step-N, or a folder of Hugging Face transformers.
        task: sst2, cola, mrpc, stsb, rte, wnli, qnli, qqp, mnli, squad or squad2.
        data: A folder with GLUE's .tsv or SQuAD's .json files. Defaults to the Hugging Face Hub.
        seeds: Number of seeds, counted from 0. A seed decides new weights, data order and dropout.
        lr: Peak learning rates (default: 5e-5). Every combination with --batch and --epochs is trained.
        batch: Batch sizes, in examples (default: 32).
        epochs: Numbers of passes over the training data (default: 3).
        grid: Search what a paper searched, instead of these three: devlin, roberta, turc or swe.
        max_length: Maximum tokens of an example (default: 128; 384 for SQuAD).
        num_examples: Train on this many examples only; for SQuAD, questions. Defaults to all.
        from_scratch: Start from random weights, as a baseline.
        pooling: How to represent a sentence: by the state of [CLS], or by the mean of its tokens' states.
        dropout: Share of states and attention weights dropped in training. Defaults to the checkpoint's (BERT: 0.1).
        precision: Defaults to bf16 on a GPU that supports it, else to fp32.
        output: A JSON file for the results.
    """
    from pretrain.finetune import run
    from pretrain.finetune.results import table, write_results
    from pretrain.finetune.tasks import GRIDS, Grid
    from pretrain.runs.outputs import check_file

    if grid is not None and grid not in GRIDS:
        raise UserError(f"grid {grid!r} is unknown{nearest(grid, GRIDS)}; choose one of {', '.join(GRIDS)}")
    if grid and (lr or batch or epochs):
        raise UserError(f"--grid {grid} says which --lr, --batch and --epochs to try; leave out these, or --grid")
    check_counts(seeds=[seeds], num_examples=[num_examples], max_length=[max_length], batch=batch, epochs=epochs)
    run.check_rates(lr)
    run.check_dropout(dropout)
    check_file("--output", output, "results.json")
    settings = (GRIDS[grid] if grid else Grid(lr or (5e-5,), batch or (32,), epochs or (3,))).settings()
    how: dict[str, Any] = {
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
