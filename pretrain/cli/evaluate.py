"""The verb `evaluate`."""

import json

from pretrain.cli.arguments import CheckpointPath, check_counts
from pretrain.settings.options import OptionalStr


def evaluate(checkpoint: CheckpointPath, /, corpus: OptionalStr = None, rows: int = 256) -> None:
    """Print validation loss and accuracy of a checkpoint.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        corpus: A prepared corpus. Defaults to the corpus of training.
        rows: Number of validation rows to read.
    """
    from pretrain.engine.distributed import process_group
    from pretrain.use.evaluate import evaluate_checkpoint

    check_counts(rows=[rows])
    with process_group():
        result = evaluate_checkpoint(checkpoint, corpus, rows)
    print(json.dumps({"valid_loss": result.loss, "valid_accuracy": result.accuracy, "rows": rows}))
