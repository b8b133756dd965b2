"""The verb `fill`."""

from typing import Annotated

from tyro.conf import Positional, arg

from pretrain.cli.arguments import CheckpointPath, check_counts


def fill(
    checkpoint: CheckpointPath, text: Annotated[Positional[str], arg(name="text", metavar="TEXT")], /, guesses: int = 5
) -> None:
    """Print the model's most likely words for [MASK] in a sentence.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        text: A sentence with [MASK] in place of a word.
        guesses: Number of answers to print, most likely first.
    """
    from pretrain.use.fill import Filler, fill_text
    from pretrain.use.trained import open_trained

    check_counts(guesses=[guesses])
    trained = open_trained(checkpoint)
    for probability, filled in fill_text(Filler(trained.model, trained.vocabulary), text, guesses):
        print(f"{probability:6.1%}  {filled}")
