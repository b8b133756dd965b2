"""One checkpoint folder: written part by part, verified, and read back onto any number of ranks."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from growth.state import MOMENTS, Record, TrainingState, assign_owners, kinds_of
from model.config import BertConfig
from model.errors import UserError
from model.lazy import dist, torch
from model.parameters import parameter_table
from pretrain.checkpoint.parts import Parts
from pretrain.checkpoint.tensors import write_tensors, write_text
from pretrain.engine.agreement import first_message, is_group, read_once
from pretrain.settings.plugins import PluginError, load_plugins

INDEX, CHECKSUMS = "index.json", "SHA256SUMS"
FORMAT, IN_PIECES = 2, 3
"""IN_PIECES: the format of an index in which a parameter is in several files."""
MISFITS = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, SafetensorError)
"""What reading raises when a file holds something else than it should."""


def write_part(folder: Path, rank: int, parts: Parts) -> str | None:
    """Writes what this rank has to. Returns the file's sha256, or None where that is nothing."""
    tensors = {
        f"{piece.name}/{kind}": tensor
        for piece, own in parts.tensors.items()
        for kind, tensor in zip(parts.kinds(piece.name), own, strict=True)
    }
    return write_tensors(folder / part_name(rank), tensors) if tensors else None


def write_index(folder: Path, parts: Parts, run: dict[str, Any], part_sums: dict[int, str]) -> None:
    """Writes the index of the parts. `run` is JSON with everything but the tensors; `part_sums` is {rank: sha256}."""
    files: dict[str, list[str]] = {}
    for piece, writer in parts.writers.items():
        files.setdefault(piece.name, []).append(part_name(writer))
    parameters: dict[str, dict[str, Any]] = {}
    for name, those in files.items():
        parameters[name] = ({"file": those[0]} if len(those) == 1 else {"files": those}) | {"step": parts.steps[name]}
    for name in parts.with_one_moment:
        parameters[name]["moments"] = list(MOMENTS[:1])
    number = FORMAT if all(len(those) == 1 for those in files.values()) else IN_PIECES
    index = {"format": number, "config": parts.config.model_dump(), "run": run, "parameters": parameters}
    sums = {part_name(rank): checksum for rank, checksum in part_sums.items()}
    sums[INDEX] = write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    write_text(folder / CHECKSUMS, "".join(f"{checksum}  {name}\n" for name, checksum in sorted(sums.items())))


def files_of(entry: Mapping[str, Any]) -> list[str]:
    """The files that hold a parameter, given its entry in an index: of several each has some rows, in this order."""
    return entry["files"] if "files" in entry else [entry["file"]]


def load_checkpoint(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """The state, spread over the current ranks, and what was saved with it. Collective.

    Raises UserError on all ranks when the folder is not a checkpoint, or a file in it is missing or changed.
    """
    read_once(lambda: _check_is_checkpoint(path))
    damage = find_damage(path)
    if damage is not None:
        raise UserError(f"checkpoint {path} is damaged: {damage}; use another checkpoint")
    return read_checkpoint(path)


def read_checkpoint(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """As `load_checkpoint`, of a folder that is known to be intact. Collective: rank 0 reads the index for all."""
    index = read_once(lambda: read_index(path))
    _load_variants(index)
    config = BertConfig(**index["config"])
    parameters = index["parameters"]
    rank, num_ranks = _rank_and_size()
    steps = {name: parameters[name]["step"] for name in parameter_table(config)}
    state = TrainingState(config, assign_owners(config, num_ranks), steps, with_one_moment=with_one_moment(parameters))
    opened: dict[str, Any] = {}
    for name, spec in parameter_table(config).items():
        if state.owners[name] == rank:
            files = files_of(parameters[name])
            for file in files:
                opened[file] = opened.get(file) or safe_open(path / file, framework="pt")
            rows = ([opened[file].get_tensor(f"{name}/{kind}") for file in files] for kind in state.kinds(name))
            tensors = (each[0] if len(each) == 1 else torch.cat(each) for each in rows)
            state.records[name] = Record.of((tensor.view(spec.shape) for tensor in tensors), steps[name])
    return state, index["run"]


def read_index(path: Path) -> dict[str, Any]:
    _check_is_checkpoint(path)
    with readable(path):
        index = json.loads((path / INDEX).read_text("utf-8"))
        if index["format"] not in (FORMAT, IN_PIECES):
            raise UserError(
                f"checkpoint {path} has format {index['format']}, this version reads {FORMAT} and {IN_PIECES}"
            )
        _load_variants(index)
    return index


def with_one_moment(parameters: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """The parameters of an index whose second moment is not kept. An index names moments only where one is missing."""
    return frozenset(name for name, entry in parameters.items() if tuple(entry.get("moments", MOMENTS)) != MOMENTS)


def _load_variants(index: dict[str, Any]) -> None:
    """Loads the plugins of the run, if its shape has fields that are unknown without: else their code stays unread."""
    if not index["config"].keys() <= BertConfig.model_fields.keys():
        load_plugins(index["run"].get("recipe", {}).get("plugins", ()))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever does not fit in a checkpoint's index becomes a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except MISFITS as fault:
        raise UserError(f"checkpoint {path} is damaged: {_explained(fault)}; use another checkpoint") from None


def find_damage(path: Path) -> str | None:
    """Compares every file with its checksum, and says what is wrong with the first that differs.

    The files are divided among the ranks, and all get the same answer. Collective.
    """
    rank, num_ranks = _rank_and_size()
    sums = read_once(lambda: read_checksums(path))
    if INDEX not in sums:
        return f"{CHECKSUMS} is missing or broken"
    damage = next(filter(None, (fault_in(path / name, sums[name]) for name in sorted(sums)[rank::num_ranks])), None)
    if is_group():
        damage = first_message(damage)
    return damage or read_once(lambda: _contradiction(path, sums.keys()))


def _contradiction(path: Path, files: Set[str]) -> str | None:
    """Says where the index, the checksums and the headers of the parts contradict each other: somebody has changed one
    of them and made its checksum fit, or has cut the list of checksums. `files`: those with a checksum."""
    try:
        index = json.loads((path / INDEX).read_text("utf-8"))
        if index["format"] not in (FORMAT, IN_PIECES):
            return None  # reading says so
        _load_variants(index)
        sizes: dict[str, dict[str, int]] = {}
        single = with_one_moment(index["parameters"])
        for name, spec in parameter_table(BertConfig(**index["config"])).items():
            holders, step = files_of(index["parameters"][name]), index["parameters"][name]["step"]
            for file in holders:
                if file not in files:
                    return f"{CHECKSUMS} does not list {file}"
                sizes[file] = sizes.get(file) or _sizes(path / file)
            if not isinstance(step, int):
                return f"{INDEX} has step {step!r} for {name}"
            for kind in kinds_of(name, single):
                if sum(sizes[file].get(f"{name}/{kind}", 0) for file in holders) != spec.numel:
                    return f"{', '.join(holders)} has no {name} of shape {'x'.join(map(str, spec.shape))}"
        if not isinstance(index["run"], dict):
            return f"{INDEX} says nothing of the run"
    except PluginError:
        raise
    except MISFITS as fault:
        return _explained(fault)
    return None


def _sizes(file: Path) -> dict[str, int]:
    """Elements of every tensor in a safetensors file."""
    with safe_open(file, framework="pt") as opened:
        return {name: math.prod(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _explained(fault: Exception) -> str:
    """One line on a value that is missing or of the wrong kind in an index."""
    if isinstance(fault, ValidationError):
        first = fault.errors()[0]
        key = ".".join(map(str, first["loc"]))
        return f"{INDEX} does not fit: {key} is {str(first['input'])[:100]!r}: {first['msg']}"
    missing = f"{fault} is missing" if isinstance(fault, KeyError) else " ".join(str(fault).split())
    return f"{INDEX} does not fit: {missing[:200]}"


def _check_is_checkpoint(path: Path) -> None:
    if not (path / INDEX).is_file():
        raise UserError(f"{path} is not a checkpoint: it has no {INDEX}; name a folder checkpoints/step-N")


def read_checksums(path: Path) -> dict[str, str]:
    """{file name: sha256}, as far as the file of checksums can be read."""
    try:
        lines = (path / CHECKSUMS).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def fault_in(file: Path, checksum: str) -> str | None:
    """What is wrong with a file of a checkpoint, in words."""
    digest = hashlib.sha256()
    try:
        with file.open("rb", buffering=0) as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    return None if digest.hexdigest() == checksum else f"{file.name} is not what was written"


def part_name(rank: int) -> str:
    """The file of the records that a rank owned."""
    return f"rank-{rank:05d}.safetensors"


def _rank_and_size() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
