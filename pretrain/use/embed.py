"""Embeddings: one vector for each line of a text file, from the states of the last layer."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from model.errors import UserError
from pretrain.launch.gpus import count_gpus
from pretrain.use.api import Model

Pooling = Literal["mean", "cls"]

LINES_AT_ONCE = 4096
"""Of these, lines of similar length are computed together."""


@dataclass(frozen=True)
class Text:
    """The lines of a file, counted and found fit to embed."""

    file: Path
    num_lines: int

    @classmethod
    def check(cls, file: Path) -> "Text":
        """Reads the file once. Raises UserError where it is missing or empty, or a line has no text or is not UTF-8."""
        if not file.is_file():
            raise UserError(f"{file} is not a file; name one with a text on each line")
        number = 0
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                try:
                    has_text = bool(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
                except UnicodeDecodeError:
                    raise UserError(f"{file}: line {number} is not UTF-8; write the file in this encoding") from None
                if not has_text:
                    raise UserError(f"{file}: line {number} has no text to embed; remove it")
        if not number:
            raise UserError(f"{file} is empty; write a text on each line")
        return cls(file, number)

    def lines(self) -> Iterator[str]:
        with self.file.open(encoding="utf-8-sig", newline="\n") as opened:
            for line in opened:
                yield line.strip()


@dataclass(frozen=True)
class Cut:
    """Lines that were longer than the model reads."""

    num_lines: int
    first: int
    """Its number, from 1."""


class Embedder:
    """Vectors of texts: the mean of their tokens' states, [CLS] and [SEP] included, or the state of [CLS]."""

    def __init__(self, model: Model, pooling: Pooling = "mean", normalise: bool = False, rows: int = 32):
        """`normalise`: to length 1. `rows`: texts that are computed together."""
        self.device = torch.device("cuda" if count_gpus() and torch.cuda.is_available() else "cpu")
        self.model, self.pooling, self.normalise, self.rows = model.to(self.device), pooling, normalise, rows
        self.cut: Cut | None = None
        self.num_seen = 0

    @property
    def longest(self) -> int:
        """Tokens of a text that the model reads."""
        return self.model.config.max_positions - 2

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, H] fp32, in the order of the texts. Longer ones are cut, and counted in `cut`."""
        tokens = [self._tokens(text) for text in texts]
        vectors = np.empty((len(texts), self.model.config.hidden), np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(tokens[place]))
        for start in range(0, len(order), self.rows):
            places = order[start : start + self.rows]
            vectors[places] = self._vectors([tokens[place] for place in places])
        return vectors

    def _tokens(self, text: str) -> list[int]:
        vocabulary = self.model.vocabulary
        ids = vocabulary.tokenizer.encode(text)
        self.num_seen += 1
        if len(ids) > self.longest:
            self.cut = Cut(self.cut.num_lines + 1, self.cut.first) if self.cut else Cut(1, self.num_seen)
        return [vocabulary.special.cls, *ids[: self.longest], vocabulary.special.sep]

    @torch.no_grad()
    def _vectors(self, rows: list[list[int]]) -> np.ndarray:
        """[B, H]"""
        pad, length = self.model.vocabulary.special.pad, max(map(len, rows))
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows], device=self.device)
        is_token = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=self.device)
        states = self.model.states(ids, is_token)  # [B, S, H]
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            pooled = (states * is_token.unsqueeze(-1)).sum(1) / is_token.sum(1, keepdim=True)
        if self.normalise:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        return pooled.float().cpu().numpy()


def write_embeddings(embedder: Embedder, text: Text, output: Path) -> None:
    """An array [lines, H] for `.npy`; for `.jsonl` an object for each line: its `text` and its `embedding`.

    The file gets its name once it is complete.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        WRITERS[output.suffix](partial, text.num_lines, _blocks(embedder, text))
        partial.replace(output)
    except OSError as fault:
        raise UserError(f"--output {output} cannot be written: {fault.strerror}; name another place") from None
    finally:
        partial.unlink(missing_ok=True)


Block = tuple[list[str], np.ndarray]
"""Some lines, and their vectors [N, H]."""


def _blocks(embedder: Embedder, text: Text) -> Iterator[Block]:
    lines = text.lines()
    while some := list(islice(lines, LINES_AT_ONCE)):
        yield some, embedder.embed(some)


def _write_npy(file: Path, num_lines: int, blocks: Iterator[Block]) -> None:
    """Block by block: the array need not fit into memory."""
    with file.open("wb") as opened:
        for number, (_, vectors) in enumerate(blocks):
            if number == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (num_lines, vectors.shape[1])}
                np.lib.format.write_array_header_1_0(opened, header)
            opened.write(vectors.astype("<f4").tobytes())


def _write_jsonl(file: Path, num_lines: int, blocks: Iterator[Block]) -> None:
    with file.open("w", encoding="utf-8") as opened:
        for lines, vectors in blocks:
            for line, vector in zip(lines, vectors, strict=True):
                row = {"text": line, "embedding": [float(number) for number in vector]}
                opened.write(json.dumps(row, ensure_ascii=False) + "\n")


WRITERS: dict[str, Callable[[Path, int, Iterator[Block]], None]] = {".npy": _write_npy, ".jsonl": _write_jsonl}
"""By the end of the file's name."""


def check_output(output: Path) -> None:
    """Raises UserError for a kind of file that cannot be written."""
    if output.suffix not in WRITERS:
        raise UserError(f"--output {output} must end in {' or '.join(WRITERS)}")
