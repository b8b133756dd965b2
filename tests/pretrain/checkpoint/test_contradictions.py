"""A checkpoint whose files contradict each other although their checksums hold: one line, soon, and no traceback."""

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from growth.state import fresh_state
from model.config import BertConfig
from model.errors import UserError
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.checkpoint.files import write_index, write_part
from pretrain.checkpoint.parts import Parts
from pretrain.checkpoint.tensors import write_text

CONFIG = BertConfig(layers=1, hidden=8, heads=2, ffn=8, vocab_size=30, max_positions=8)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoints" / "step-00000003"
    folder.mkdir(parents=True)
    state = fresh_state(CONFIG, 0, 0, 1)
    parts = Parts.of(state)
    write_index(folder, parts, {"progress": {}}, {0: write_part(folder, 0, parts)})
    (folder.parent / "latest").write_text("step-00000003\n")
    return folder


def mend(folder: Path, index: object) -> None:
    """Writes another index, with a checksum that fits."""
    _, part = (folder / "SHA256SUMS").read_text().splitlines()
    checksum = write_text(folder / "index.json", json.dumps(index))
    (folder / "SHA256SUMS").write_text(f"{checksum}  index.json\n{part}\n")


def paths(values: object, depth: int = 3) -> list[tuple]:
    """The keys of all values of nested objects, of the first and the last of many alike."""
    if not isinstance(values, dict) or not depth:
        return []
    return [(key, *rest) for key in list(values)[:40] for rest in [(), *paths(values[key], depth - 1)]]


WRONG = {"gone": None, "text": "x", "large": 10**9, "list": [1], "object": {}, "negative": -1, "NaN": float("nan")}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_values_in_the_index(checkpoint, kind):
    """Values that fit as well (a number for a number) may load; all others are refused."""
    original = json.loads((checkpoint / "index.json").read_text())
    started = time.monotonic()
    for path in paths(original):
        index = json.loads(json.dumps(original))
        holder = index
        for key in path[:-1]:
            holder = holder[key]
        if kind == "gone":
            del holder[path[-1]]
        else:
            holder[path[-1]] = WRONG[kind]
        mend(checkpoint, index)
        with suppress(UserError):
            load_checkpoint(checkpoint)
    assert time.monotonic() - started < 60


def test_a_shape_that_cannot_be_is_named(checkpoint):
    index = json.loads((checkpoint / "index.json").read_text())
    index["config"]["layers"] = 10**9
    mend(checkpoint, index)
    with pytest.raises(UserError, match=r"index.json does not fit: layers is '1000000000': Input should be less than"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("key", ["config", "parameters", "format", "run"])
def test_an_index_without_one_of_its_parts_is_refused(checkpoint, key):
    index = json.loads((checkpoint / "index.json").read_text())
    del index[key]
    mend(checkpoint, index)
    with pytest.raises(UserError, match=f"is damaged: index.json does not fit: '{key}' is missing"):
        load_checkpoint(checkpoint)


def test_parts_of_another_shape_are_refused(checkpoint):
    index = json.loads((checkpoint / "index.json").read_text())
    index["config"]["vocab_size"] = 300
    mend(checkpoint, index)
    with pytest.raises(UserError, match=r"rank-00000.safetensors has no embeddings.word.weight of shape 300x8"):
        load_checkpoint(checkpoint)


def test_checksums_cut_at_a_line_end_are_damage(checkpoint):
    """Without this the parts would be read unchecked."""
    sums = checkpoint / "SHA256SUMS"
    sums.write_text(sums.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"is damaged: SHA256SUMS does not list rank-00000.safetensors"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"../../elsewhere", b"step-3"])
def test_a_pointer_that_names_nothing_leaves_the_newest(checkpoint, content):
    (checkpoint.parent / "latest").write_bytes(content)
    assert find_checkpoint(checkpoint.parents[1]) == checkpoint
    state, _ = load_checkpoint(find_checkpoint(checkpoint.parents[1]))
    assert torch.equal(state.records["mlm.bias"].weight, fresh_state(CONFIG, 0, 0, 1).records["mlm.bias"].weight)
