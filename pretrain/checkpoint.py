"""Checkpoints: the logical training state on disk, the same for every ZeRO stage, parallel layout and world size.

    step-00000400/
        index.json              shape, step of each parameter and the file it is in, the run's progress
        rank-00000.safetensors  NAME/weight, NAME/exp_avg, NAME/exp_avg_sq of the parameters that rank owned

No pickle anywhere: opening a checkpoint runs no code. A folder is written beside its final name and renamed whole.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from growth.state import TENSORS, Record, TrainingState, assign_owners
from model.config import BertConfig
from model.errors import UserError
from model.parameters import parameter_table


def save_checkpoint(path: Path, state: TrainingState, run: dict[str, Any]) -> None:
    """Writes this rank's records and, on rank 0, the index. `run`: JSON of everything that is not a tensor. Collective."""
    rank = dist.get_rank()
    partial = path.with_name(path.name + ".partial")
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    tensors = {
        f"{name}/{kind}": tensor.contiguous()
        for name, record in state.records.items()
        for kind, tensor in zip(TENSORS, record.tensors(), strict=True)
    }
    if tensors:
        save_file(tensors, partial / _file_name(rank))
    if rank == 0:
        parameters = {
            name: {"file": _file_name(owner), "step": state.steps[name]} for name, owner in state.owners.items()
        }
        index = {"format": 1, "config": state.config.model_dump(), "run": run, "parameters": parameters}
        (partial / "index.json").write_text(json.dumps(index, indent=1), "utf-8")
    dist.barrier()
    if rank == 0:
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        _write_latest(path)
    dist.barrier()


def load_checkpoint(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """The state, spread over the ranks there are now, and what was saved beside it. Raises UserError if incomplete."""
    index = read_index(path)
    config = BertConfig(**index["config"])
    parameters = index["parameters"]
    num_ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    steps = {name: parameters[name]["step"] for name in parameter_table(config)}
    state = TrainingState(config, assign_owners(config, num_ranks), steps)
    files: dict[str, Any] = {}
    for name, spec in parameter_table(config).items():
        if state.owners[name] != rank:
            continue
        file = parameters[name]["file"]
        if file not in files:
            if not (path / file).is_file():
                raise UserError(f"checkpoint {path} is incomplete: {file} is missing; use another checkpoint")
            files[file] = safe_open(path / file, framework="pt")
        tensors = (files[file].get_tensor(f"{name}/{kind}").view(spec.shape) for kind in TENSORS)
        state.records[name] = Record(*tensors, step=steps[name])
    return state, index["run"]


def read_index(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / "index.json").read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not a checkpoint: it has no index.json; name a folder checkpoints/step-N") from None
    except ValueError as error:
        raise UserError(f"{path / 'index.json'} is damaged ({error}); use another checkpoint") from None


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's `checkpoints` folder."""
    pointer = folder / "latest"
    return folder / pointer.read_text("utf-8").strip() if pointer.is_file() else None


def find_checkpoint(path: Path) -> Path:
    """A checkpoint folder, given itself or a run's folder (its latest)."""
    if not path.is_dir():
        raise UserError(f"checkpoint {path} does not exist; name a run's folder or one of its checkpoints/step-N")
    return latest_checkpoint(path / "checkpoints") or latest_checkpoint(path) or path


def _write_latest(path: Path) -> None:
    pointer = path.parent / "latest"
    beside = pointer.with_name("latest.partial")
    beside.write_text(path.name + "\n", "utf-8")
    beside.replace(pointer)


def _file_name(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
