"""Writes safetensors files as a stream.

The library's own writer copies every tensor and holds the interpreter while it does, which would stop the step loop;
this one hands each tensor's memory to the file and to the checksum, both of which release it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.lazy import Tensor, torch
from pretrain.lease import Start

NOBODYS = Start()
DTYPES = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16"}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes CPU tensors to a safetensors file, which is on disk when this returns. Returns the file's sha256."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": DTYPES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the data
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        parts: Iterable[bytes | memoryview] = (len(text).to_bytes(8, "little"), text, *map(_memory, tensors.values()))
        for part in parts:
            digest.update(part)
            _write_all(file.fileno(), part)
        os.fsync(file.fileno())
    return digest.hexdigest()


def write_text(path: Path, text: str) -> str:
    """Writes a text file, which is on disk when this returns. Returns its sha256."""
    data = text.encode()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def replace_text(path: Path, text: str, start: Start = NOBODYS) -> None:
    """Writes a text file, whole or not at all: whoever reads it finds the old text or the new one.

    `start`: the start of the run that it belongs to, which must be the newest.
    """
    write_text(start.partial(path), text)
    start.finish(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _memory(tensor: Tensor) -> memoryview:
    array: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]
