"""The verb `export`."""

from pretrain.cli.arguments import CheckpointPath
from pretrain.settings.options import OptionalPath, OptionalStr


def export(checkpoint: CheckpointPath, /, output: OptionalPath = None, corpus: OptionalStr = None) -> None:
    """Write a checkpoint as a folder that Hugging Face transformers opens.

    The folder holds the model, its tokenizer and a model card.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        output: The folder to write. Defaults to `huggingface` in the run's folder.
        corpus: The prepared corpus whose tokenizer to include. Defaults to the corpus of training.
    """
    from pretrain.use.export import export as export_checkpoint

    print(export_checkpoint(checkpoint, output, corpus))
