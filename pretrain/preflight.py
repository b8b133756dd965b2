"""What can be checked before any rank starts: one plain process does it, so that a mistake is one line."""

from pathlib import Path

import torch

from model.errors import UserError
from pretrain.data import Corpus
from pretrain.recipe import Recipe, Run, resolve
from pretrain.run_folder import RunFolder


def check_run(recipe: Recipe, num_ranks: int, folder: Path) -> tuple[Run, Corpus, RunFolder]:
    """The resolved run, its corpus and its folder. Raises UserError; writes nothing."""
    corpus = Corpus.open(recipe.data.corpus)
    run = resolve(recipe, corpus.vocab_size, num_ranks)
    if run.stages[0].precision == "fp16" and not torch.cuda.is_available():
        raise UserError("precision fp16 needs a GPU; choose bf16 or fp32")
    run_folder = RunFolder(folder)
    run_folder.check(recipe)
    return run, corpus, run_folder
