"""The fine-tuned model as a folder that Hugging Face transformers opens, with its tokenizer."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from model.errors import UserError
from pretrain.finetune.problem import Problem
from pretrain.runs.outputs import check_complete_folder, complete_folder

MARK = "finetuned_with"
"""In config.json."""


def check_save(path: Path | None) -> None:
    """Raises UserError unless `path` can be written and what it holds, if anything, was saved here earlier."""
    if path is None:
        return
    check_complete_folder("--save", path)
    if path.is_dir() and any(path.iterdir()) and not _is_ours(path):
        raise UserError(f"--save {path} holds other files than a model that finetune saved; choose another folder")


def _is_ours(path: Path) -> bool:
    try:
        return MARK in json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False


def save(path: Path, model: nn.Module, tokenizer: Any, problem: Problem) -> None:
    """Replaces what is there. Changes the model if its outputs are not in the labels' unit yet."""
    problem.finish(model)
    saved: Any = model.to("cpu")
    setattr(saved.config, MARK, "espalier")
    with complete_folder(path) as folder:
        saved.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
