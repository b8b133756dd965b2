"""The verbs of the command line: one file each, with the verb's arguments and its call.

A verb NAME is the function `NAME` of pretrain/cli/NAME.py, with _ for -. The function imports what it needs itself, so
that `--help` does not wait for torch. It may return an exit code.

(`doctor` must also run on a Python that is too old for Espalier, so this file uses nothing newer than Python 3.6.)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

VERBS = {
    "demo": "Pretrain a small BERT and change its shape on the way: five minutes on two cores, eight on one.",
    "prepare": "Turn text into a corpus to train on.",
    "plan": "Print what a recipe will do and what it costs. Trains nothing.",
    "train": "Train a recipe, or resume it from the latest checkpoint in its folder.",
    "evaluate": "Print validation loss and accuracy of a checkpoint.",
    "fill": "Print the model's most likely words for [MASK] in a sentence.",
    "embed": "Write a vector for each line of a text file.",
    "profile": "Measure where the time of a training step goes.",
    "compare": "Compare finished runs: the cost of each method to reach a loss.",
    "grow": "Change the shape of a checkpoint offline.",
    "export": "Write a checkpoint as a folder that Hugging Face transformers opens.",
    "status": "Print how runs stand: state, step, loss, speed, restarts, time left.",
    "report": "Write one HTML page about a run.",
    "finetune": "Fine-tune a checkpoint on a table of your own, a GLUE task or SQuAD.",
    "check-nodes": "Look at the nodes of a SLURM job, or at this machine, and name those at fault.",
    "doctor": "Print what this environment has and what Espalier wants. Installs nothing.",
}
"""Every verb and its summary, which is also the first line of its own --help."""


def verb_function(name: str) -> "Callable[..., int | None]":
    """The function behind a verb."""
    name = name.replace("-", "_")
    return getattr(importlib.import_module("pretrain.cli." + name), name)
