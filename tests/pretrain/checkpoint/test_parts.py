"""A checkpoint's files are even however many ranks there are, and hold the same bits."""

import json
from collections import Counter
from math import ceil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open

from growth.state import Record, TrainingState, assign_owners, fresh_state
from model.config import BertConfig
from model.errors import UserError
from model.parameters import parameter_table
from pretrain.checkpoint import CheckpointStore, load_checkpoint, parts
from pretrain.checkpoint.files import write_text
from pretrain.checkpoint.parts import AT_ONCE, FULL, divided
from tests.support.saved import CONFIG
from tests.support.workers import pool

FOLDER = "step-00000003"
LARGE = CONFIG.replace(vocab_size=300)
"""More than half of it is the word embedding."""
ONE_MOMENT = "mlm.bias"


@pytest.mark.parametrize("num_ranks", [8, 64, 1024, 4096])
def test_files_of_bert_large_are_few_and_even(num_ranks):
    table = parameter_table(BertConfig.preset("large"))
    total = sum(spec.numel for spec in table.values())
    writers = divided(BertConfig.preset("large"), num_ranks)
    rows: dict[str, int] = dict.fromkeys(table, 0)
    files: Counter[int] = Counter()
    for piece, rank in writers.items():
        assert piece.first == rows[piece.name], "rows in order, and none twice"
        rows[piece.name] += piece.rows
        files[rank] += piece.rows * table[piece.name].numel // table[piece.name].shape[0]
    assert rows == {name: spec.shape[0] for name, spec in table.items()}
    assert len({(piece.name, rank) for piece, rank in writers.items()}) == len(writers)
    assert len(files) == min(num_ranks, max(AT_ONCE, ceil(total / FULL)))
    assert max(files) < num_ranks
    assert max(files.values()) < 1.5 * max(FULL, total / len(files))


def test_where_nothing_is_divided_owners_write():
    for num_ranks in (2, 16):
        writers = divided(CONFIG, num_ranks)
        assert {piece.name: rank for piece, rank in writers.items()} == assign_owners(CONFIG, num_ranks)


def state() -> TrainingState:
    """This rank's part. One of its parameters has one moment."""
    found = fresh_state(LARGE, 3, dist.get_rank(), dist.get_world_size())
    found.with_one_moment = {ONE_MOMENT}
    for name, record in found.records.items():
        tensors = (record.weight, record.weight * 2, record.weight**2)
        found.records[name] = Record.of(tensors[: len(found.kinds(name))], 3)
    return found


def save_in_pieces(folder: Path) -> None:
    with patch.object(parts, "AT_ONCE", 3), patch.object(parts, "FULL", 8000):
        CheckpointStore(folder, in_background=False).save(3, state(), {})


def is_the_same(folder: Path) -> bool:
    read, _ = load_checkpoint(folder / FOLDER)
    expected = state()
    assert read.records.keys() == expected.records.keys()
    return all(
        torch.equal(ours, theirs)
        for name, record in expected.records.items()
        for ours, theirs in zip(read.records[name].tensors(), record.tensors(), strict=True)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pool(4).run(save_in_pieces, folder)
    return folder


def test_large_parameters_lie_in_several_files_and_are_read_whole_by_any_number_of_ranks(saved):
    index = json.loads((saved / FOLDER / "index.json").read_text())
    assert index["format"] == 3
    entry = index["parameters"]["embeddings.word.weight"]
    assert len(entry["files"]) == len(set(entry["files"])) > 1
    for file in entry["files"]:
        with safe_open(saved / FOLDER / file, framework="pt") as tensors:
            assert 0 < tensors.get_tensor("embeddings.word.weight/weight").shape[0] < LARGE.vocab_size
    assert len({file.name for file in (saved / FOLDER).glob("rank-*")}) == 3, "of four ranks"
    assert all("file" in each for name, each in index["parameters"].items() if name.endswith("bias"))
    for num_ranks in (1, 4):
        assert all(pool(num_ranks).run(is_the_same, saved))


def test_a_piece_that_the_index_leaves_out_is_missed(saved, tmp_path):
    folder = tmp_path / FOLDER
    folder.mkdir()
    for file in (saved / FOLDER).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    index = json.loads((folder / "index.json").read_text())
    index["parameters"]["embeddings.word.weight"]["files"].pop()
    checksum = write_text(folder / "index.json", json.dumps(index))
    sums = [line for line in (folder / "SHA256SUMS").read_text().splitlines() if "index" not in line]
    write_text(folder / "SHA256SUMS", "\n".join([*sums, f"{checksum}  index.json"]) + "\n")
    with pytest.raises(UserError, match=r"has no embeddings.word.weight of shape 300x32"):
        load_checkpoint(folder)


def save_whole(folder: Path) -> None:
    CheckpointStore(folder, in_background=False).save(3, state(), {})


def test_small_states_are_written_as_before(tmp_path):
    """So that earlier versions read them."""
    pool(4).run(save_whole, tmp_path)
    assert json.loads((tmp_path / FOLDER / "index.json").read_text())["format"] == 2
