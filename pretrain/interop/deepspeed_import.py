"""DeepSpeed's own checkpoints. They are pickled, and a pickle may run code: only tensors, plain values and DeepSpeed's
own records are read, unless the user trusts who wrote the files."""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from model.errors import UserError
from pretrain.engine.agreement import read_once

MODEL_FILES, OPTIMIZER_FILES = "*_model_states.pt", "*_optim_states.pt"
MAX_REASON = 160
"""Characters of another library's message."""


def is_deepspeed(path: Path) -> bool:
    """Whether `engine.save_checkpoint` may have written the folder: it holds checkpoints, or is one."""
    return (path / "latest").is_file() or any(path.glob(MODEL_FILES))


def read_deepspeed(path: Path, trust_pickle: bool, note: Callable[[str], None]) -> dict[str, Tensor]:
    """The fp32 masters of the newest checkpoint in `path`, or of the checkpoint `path`, by their names there.

    The model may be Espalier's or BERT of transformers. Collective. Raises UserError if it cannot be read.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    folder = read_once(lambda: _checkpoint(path))
    if trust_pickle:
        note(f"{folder} is pickled, and --trust-pickle was given: reading it may run what its author put there")
    with _reading(folder, trust_pickle):
        if any(folder.glob(OPTIMIZER_FILES)):
            weights = get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), folder.name)
        else:
            weights = _load(_model_file(folder))["module"]
        return {
            name.removeprefix("module."): each.detach() for name, each in weights.items() if isinstance(each, Tensor)
        }


def deepspeed_shapes(path: Path, trust_pickle: bool) -> dict[str, Tensor]:
    """As `read_deepspeed`, tensors without values. Reads no weight, and says of every file whether it may be read."""
    folder = _checkpoint(path)
    with _reading(folder, trust_pickle):
        files = [_load(file) for pattern in (OPTIMIZER_FILES, MODEL_FILES) for file in sorted(folder.glob(pattern))]
        model = files[-1]
        groups = model.get("param_shapes") or [model["module"]]
        shapes = {name: tuple(getattr(each, "shape", each)) for group in groups for name, each in group.items()}
        return {name.removeprefix("module."): torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _checkpoint(path: Path) -> Path:
    """The folder of one checkpoint."""
    folder = path
    if (path / "latest").is_file():
        folder = path / (path / "latest").read_text("utf-8", errors="replace").strip().replace("\0", "")
    if not any(folder.glob(MODEL_FILES)):
        raise UserError(f"start {folder} has no {MODEL_FILES}; name a folder that DeepSpeed's save_checkpoint wrote")
    if len(list(folder.glob("mp_rank_*_model_states.pt"))) > 1:
        raise UserError(
            f"start {folder} was cut by tensor parallelism; save it with one rank a model, or as safetensors"
        )
    return folder


def _model_file(folder: Path) -> Path:
    return next(folder.glob(MODEL_FILES))


def _load(file: Path) -> Any:
    """Tensors stay on disk until they are used."""
    return torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file))


@contextmanager
def _reading(folder: Path, trust_pickle: bool) -> Iterator[None]:
    """Inside, torch.load runs no code, DeepSpeed's calls of it included, unless the files are trusted. What is wrong
    with them becomes a UserError."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    records = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    force = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" if trust_pickle else "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    try:
        with patch.dict(os.environ, {force: "1"}), torch.serialization.safe_globals(records):
            yield
    except UserError:
        raise
    except Exception as fault:  # damaged files break the libraries that read them in any way
        if isinstance(fault, UnpicklingError) and not trust_pickle:
            raise UserError(
                f"start {folder} holds more than tensors and plain values ({_needed(folder)}), and reading that may "
                "run code; if you trust who wrote it, add --trust-pickle, else convert it to safetensors"
            ) from None
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:MAX_REASON]
        raise UserError(f"start {folder} cannot be read as DeepSpeed's ({reason}); copy it again") from None


def _needed(folder: Path) -> str:
    """The classes and functions that the files of a checkpoint ask for and that are not read by default."""
    needed: set[str] = set()
    for file in folder.glob("*.pt"):
        if zipfile.is_zipfile(file):
            needed |= set(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    return ", ".join(sorted(needed)) or "an old or damaged pickle"
