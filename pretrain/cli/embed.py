"""The verb `embed`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pretrain.cli.arguments import CheckpointPath, check_counts
from pretrain.settings.options import OptionalStr


def embed(
    checkpoint: CheckpointPath,
    texts: Annotated[Positional[Path], arg(name="texts", metavar="FILE")],
    /,
    output: Path,
    pooling: Literal["mean", "cls"] = "mean",
    normalise: bool = False,
    rows: int = 32,
    corpus: OptionalStr = None,
) -> None:
    """Write a vector for each line of a text file.

    Args:
        checkpoint: A run's folder (its latest checkpoint) or one of its checkpoints/step-N.
        texts: A text file (UTF-8) with a text on each line.
        output: The file to write: .npy, an array of a row for each line, or .jsonl, an object for each line.
        pooling: The mean of the states of all tokens, or the state of [CLS], which only a sentence objective trains.
        normalise: Divide each vector by its length, so that products are cosines.
        rows: Lines to compute together. Lower it if memory is short.
        corpus: The prepared corpus whose tokenizer to use. Defaults to the corpus of training.
    """
    from pretrain.runs.outputs import check_file
    from pretrain.use.api import open_model
    from pretrain.use.embed import Embedder, Text, check_output, write_embeddings

    check_counts(rows=[rows])
    check_output(output)
    check_file("--output", output, "embeddings.npy")
    text = Text.check(texts)
    embedder = Embedder(open_model(checkpoint, corpus), pooling, normalise, rows)
    write_embeddings(embedder, text, output)
    if cut := embedder.cut:
        print(
            f"espalier: {cut.num_lines:,} of {text.num_lines:,} lines have more than the {embedder.longest} tokens "
            f"that this model reads, and were cut there; the first is line {cut.first:,}",
            file=sys.stderr,
        )
    print(f"{output}: {text.num_lines:,} vectors of {embedder.model.config.hidden}")
