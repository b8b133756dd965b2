"""The verbs `train` and `evaluate`: from a recipe or a checkpoint to a Trainer or a model, and back to a folder."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from model.errors import UserError
from model.parallel import ParallelLayout
from pretrain.checkpoint import find_checkpoint, latest_checkpoint, load_checkpoint
from pretrain.data import Corpus
from pretrain.engine.build import build_model
from pretrain.engine.exchange import fetch_from
from pretrain.evaluation import Evaluation, evaluate, validation_rows
from pretrain.hooks.base import Hook
from pretrain.hooks.checkpoints import Checkpoints
from pretrain.hooks.console import ConsoleDisplay
from pretrain.hooks.metrics import Metrics
from pretrain.preflight import check_run
from pretrain.progress import Progress
from pretrain.recipe import Recipe
from pretrain.recipe.schema import Data
from pretrain.trainer import Trainer


def train(recipe: Recipe, folder: Path) -> None:
    """Trains a recipe in this rank's process, from the folder's latest checkpoint if there is one. Collective."""
    run, corpus, run_folder = check_run(recipe, dist.get_world_size(), folder)
    dist.barrier()  # every rank has looked at the folder before rank 0 writes to it
    is_first = dist.get_rank() == 0
    if is_first:
        run_folder.create(recipe)
    hooks: list[Hook] = [Metrics(run_folder), ConsoleDisplay()] if is_first else []
    settings = recipe.checkpoint
    recipe_json = json.loads(recipe.model_dump_json(by_alias=True))
    hooks.append(Checkpoints(run_folder, settings.every, settings.keep_last, recipe_json))
    checkpoint = latest_checkpoint(run_folder.checkpoints)
    if checkpoint is None:
        trainer = Trainer(run, corpus, hooks)
    else:
        state, saved = load_checkpoint(checkpoint)
        for hook in hooks:
            if hook.name in saved["hooks"]:
                hook.restore(saved["hooks"][hook.name])
        trainer = Trainer(run, corpus, hooks, state, Progress.from_json(saved["progress"]))
    trainer.fit()
    trainer.close()


def evaluate_checkpoint(path: Path, corpus: str | None, num_rows: int) -> Evaluation:
    """Validation loss and accuracy of a checkpoint, in one process. `corpus` left out: the one it was trained on."""
    tp = ParallelLayout(1, dist.get_world_size()).install()
    state, saved = load_checkpoint(find_checkpoint(path))
    opened = Corpus.open(corpus or saved["corpus"])
    if opened.tokenizer_hash != saved["tokenizer"]:
        raise UserError(
            f"corpus {opened.directory} was made with another vocabulary than checkpoint {path}; "
            "name the corpus it was trained on, or one prepared with its tokenizer.json"
        )
    model = build_model(state.config, tp, torch.float32)
    fetch = fetch_from(state)
    model.load_weights(lambda name: fetch(name).weight)
    data = Data.model_validate(saved["recipe"]["data"])
    rows = validation_rows(opened, saved["sequence"], data, num_rows, 64, dist.get_rank(), dist.get_world_size())
    return evaluate(model, model, rows)
