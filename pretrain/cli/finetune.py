"""The verb `finetune`."""

import sys
from typing import Annotated, Any, Literal

from tyro.conf import arg

from model.errors import UserError, nearest
from pretrain.cli.arguments import CheckpointPath, check_counts
from pretrain.settings.options import OptionalFloat, OptionalInt, OptionalPath, OptionalStr

Rates = Annotated[tuple[float, ...], arg(metavar="FLOAT ...", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], arg(metavar="COLUMN ...", help_behavior_hint="")]
Counts = Annotated[tuple[int, ...], arg(metavar="INT ...", help_behavior_hint="")]


def finetune(
    checkpoint: CheckpointPath,
    /,
    task: str,
    data: OptionalPath = None,
    valid: OptionalPath = None,
    valid_share: OptionalFloat = None,
    text: Names = (),
    label: OptionalStr = None,
    save: OptionalPath = None,
    seeds: OptionalInt = None,
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
    """Fine-tune a checkpoint on a table of your own, a GLUE task or SQuAD.

    Prints metrics on held-out examples, and saves the model for Hugging Face transformers.

    Args:
        checkpoint: A run's folder, one of its checkpoints/step-N, or a model of Hugging Face transformers: its folder,
            or hub:OWNER/NAME.
        task: Of your own: classify, regress, spans (answers to questions) or tags (of words). GLUE's: sst2, cola, mrpc,
            stsb, rte, wnli, qnli, qqp or mnli. squad or squad2.
        data: Your table: .csv, .tsv, .jsonl or .parquet. Or a folder with GLUE's .tsv or SQuAD's .json files; these
            default to the Hugging Face Hub.
        valid: A table with the held-out examples of your own task.
        valid_share: Share of your table to hold out instead (default: 0.1).
        text: Your table's column of text, or two; of spans, QUESTION CONTEXT. Defaults to a name that tells.
        label: Your table's column of labels. Defaults to a name that tells.
        save: A folder for the model with the best score, which transformers opens.
        seeds: Number of seeds, counted from 0 (default: 1 for your own table, else 5). A seed decides new weights, data
            order and dropout.
        lr: Peak learning rates (default: 5e-5; for your own table by the model's size). Every combination with --batch
            and --epochs is trained.
        batch: Batch sizes, in examples (default: 32).
        epochs: Numbers of passes over the training data (default: 3; more for a small table of your own).
        grid: Search what a paper searched, instead of these three: devlin, roberta, turc or swe.
        max_length: Maximum tokens of an example (default: 128; 384 for SQuAD; 512 for your own table).
        num_examples: Train on this many examples only; for SQuAD, questions. Defaults to all.
        from_scratch: Start from random weights, as a baseline.
        pooling: How to represent a sentence: by the state of [CLS], or by the mean of its tokens' states.
        dropout: Share of states and attention weights dropped in training. Defaults to the checkpoint's (BERT: 0.1).
        precision: Defaults to bf16 on a GPU that supports it, else to fp32.
        output: A JSON file for the results.
    """
    from pretrain.finetune import run
    from pretrain.finetune.own.open import own_table
    from pretrain.finetune.results import table, write_results
    from pretrain.finetune.saved import check_save
    from pretrain.finetune.tasks import GRIDS, Grid, Settings
    from pretrain.runs.outputs import check_file

    if grid is not None and grid not in GRIDS:
        raise UserError(f"grid {grid!r} is unknown{nearest(grid, GRIDS)}; choose one of {', '.join(GRIDS)}")
    if grid and (lr or batch or epochs):
        raise UserError(f"--grid {grid} says which --lr, --batch and --epochs to try; leave out these, or --grid")
    own = own_table(task, data, valid, valid_share, text, label)
    seeds = seeds if seeds is not None else 1 if own else 5
    check_counts(seeds=[seeds], num_examples=[num_examples], max_length=[max_length], batch=batch, epochs=epochs)
    run.check_rates(lr)
    run.check_dropout(dropout)
    check_file("--output", output, "results.json")
    check_save(save)
    settings: Grid | list[Settings] = Grid(lr, batch, epochs)
    if grid or not own:
        settings = (GRIDS[grid] if grid else Grid(lr or (5e-5,), batch or (32,), epochs or (3,))).settings()
    how: dict[str, Any] = {
        **{"data": data, "max_length": max_length, "num_examples": num_examples, "from_scratch": from_scratch},
        **{"precision": precision, "pooling": pooling, "dropout": dropout},
    }
    about = {"checkpoint": str(checkpoint), "task": task, **how, "data": data and str(data)}
    if own:
        about |= {"valid": valid and str(valid), "valid_share": own.valid_share, "text": text, "label": label}
    results = []
    for result in run.finetune(checkpoint, task, settings, range(seeds), **how, own=own, save=save):
        results.append(result)
        print(f"{result.settings}: {result.seconds:.0f} s", file=sys.stderr)
        if output is not None:
            write_results(output, about, results)
    print(table(results))
    if save and any(filter(None, (score for result in results for score in result.scores))):
        print(f"the model with the best score is in {save}")
