"""The verb `evaluate`."""

from pretrain.cli.arguments import CheckpointPath, check_counts
from pretrain.settings.options import OptionalInt, OptionalStr


def evaluate(
    checkpoint: CheckpointPath,
    /,
    corpus: OptionalStr = None,
    rows: OptionalInt = None,
    json: bool = False,
) -> None:
    """Print validation loss and accuracy of a checkpoint.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        corpus: A prepared corpus. Defaults to the corpus of training.
        rows: Number of validation rows to read. Defaults to the recipe's.
        json: Print JSON instead of a table.
    """
    from json import dumps

    from pretrain.engine.distributed import process_group
    from pretrain.use.evaluate import evaluate_checkpoint, print_evaluation

    check_counts(rows=[] if rows is None else [rows])
    with process_group():
        found = evaluate_checkpoint(checkpoint, corpus, rows)
    if json:
        losses = {"valid_loss": found.result.loss, "valid_accuracy": found.result.accuracy}
        print(dumps({**losses, "rows": found.num_rows, "objective": found.objective}))
    else:
        print_evaluation(checkpoint, found)
