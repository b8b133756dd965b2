"""Checkpoints on disk: whole or not there, verified, kept or dropped; and what happens when writing fails."""

import hashlib
import json
import os
import resource
import shutil
import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from model.errors import UserError
from pretrain.checkpoint import CheckpointStore, find_checkpoint, load_checkpoint, load_newest, store
from pretrain.engine.exits import Stop
from tests.support.saved import flip_a_bit, state_at
from tests.support.workers import pool


def save(folder: Path, steps: list[int], keep_last: int = 2, keep_every: int = 0) -> None:
    checkpoints = CheckpointStore(folder, keep_last, keep_every)
    for step in steps:
        checkpoints.save(step, state_at(step), {"step": step})
    checkpoints.flush()


def newest(folder: Path) -> tuple[int, list[str]]:
    """The step of the newest intact checkpoint, after a look at its tensors; and what was reported."""
    lines: list[str] = []
    _, state, run = load_newest(folder, lines.append)
    expected = state_at(run["step"])
    for name, record in expected.records.items():
        assert all(torch.equal(*pair) for pair in zip(record.tensors(), state.records[name].tensors(), strict=True))
        assert state.records[name].step == record.step
    return run["step"], lines


@pytest.mark.parametrize(("saved_on", "loaded_on"), [(2, 1), (1, 2), (2, 4)])
def test_any_number_of_ranks_loads_what_any_other_saved(tmp_path, saved_on, loaded_on):
    pool(saved_on).run(save, tmp_path, [3])
    assert all(step == 3 for step, _ in pool(loaded_on).run(newest, tmp_path))


def test_the_checksums_are_those_of_sha256sum_and_cover_every_file(tmp_path):
    pool(2).run(save, tmp_path, [1])
    folder = tmp_path / "step-00000001"
    listed = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {file.name for file in folder.iterdir()} - {"SHA256SUMS"}
    assert listed.keys() == files == {"index.json", "rank-00000.safetensors", "rank-00001.safetensors"}
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == sum_ for name, sum_ in listed.items())


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


DAMAGE = {
    "a flipped bit in a tensor": ("rank-00001.safetensors", flip_a_bit),
    "a truncated part": ("rank-00000.safetensors", cut_short),
    "a part that is gone": ("rank-00001.safetensors", Path.unlink),
    "a flipped bit in the index": ("index.json", flip_a_bit),
    "an index that is gone": ("index.json", Path.unlink),
    "checksums that are gone": ("SHA256SUMS", Path.unlink),
    "an empty file of checksums": ("SHA256SUMS", lambda file: file.write_text("")),
}


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    pool(2).run(save, folder, [1, 2, 3], 3)
    return folder


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_set_aside_and_passed_over(tmp_path, three, kind):
    name, damage = DAMAGE[kind]
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    damage(folder / "step-00000003" / name)
    (step, lines), (same, silent) = pool(2).run(newest, folder)
    assert step == same == 2
    assert silent == []
    assert f"step-00000003 is damaged: {name}" in lines[0]
    assert (folder / "step-00000003.damaged").is_dir()


def test_what_was_being_written_is_dropped_and_damage_everywhere_is_an_error(tmp_path, three):
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    shutil.copytree(folder / "step-00000003", folder / "step-00000004.partial")
    (step, lines), _ = pool(2).run(newest, folder)
    assert step == 3
    assert "step-00000004.partial was being written when the run stopped" in lines[0]
    assert not (folder / "step-00000004.partial").exists()
    for step in (1, 2, 3):
        flip_a_bit(folder / f"step-0000000{step}" / "index.json")
    assert pool(2).run(stop_message, newest, folder)[1].startswith(f"every checkpoint in {folder} is damaged")


def test_evaluation_refuses_a_damaged_checkpoint_and_changes_nothing(tmp_path, three):
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    flip_a_bit(folder / "step-00000003" / "rank-00000.safetensors")
    with pytest.raises(UserError, match=r"step-00000003 is damaged: rank-00000.safetensors is not what was written"):
        load_checkpoint(find_checkpoint(folder))
    assert (folder / "step-00000003").is_dir()


def test_latest_can_be_set_back_by_hand(tmp_path, three):
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    (folder / "latest").write_text("step-00000002\n")
    assert pool(2).run(newest, folder)[0] == (2, [])


def test_retention(tmp_path):
    pool(2).run(save, tmp_path, list(range(1, 9)), 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest",
        *("step-00000003", "step-00000006", "step-00000007", "step-00000008"),
    ]


def test_retention_of_more_than_there_are(tmp_path):
    pool(1).run(save, tmp_path, [1, 2, 3, 4], 5)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-0000000{step}" for step in (1, 2, 3, 4)]


def save_named(folder: Path) -> None:
    checkpoints = CheckpointStore(folder, keep_last=1)
    checkpoints.save(1, state_at(1), {}, name="initial-weights")
    for step in (2, 3):
        checkpoints.save(step, state_at(step), {"step": step})
    checkpoints.flush()


def test_a_named_checkpoint_is_exempt_from_retention(tmp_path):
    pool(2).run(save_named, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["initial-weights", "latest", "step-00000003"]
    assert load_checkpoint(tmp_path / "initial-weights")[0].steps["mlm.bias"] == 1


def test_no_file_holds_a_pickle(three):
    for file in (three / "step-00000003").iterdir():
        data = file.read_bytes()
        if file.suffix == ".safetensors":
            data = data[8 : 8 + int.from_bytes(data[:8], "little")]  # the header; numbers follow
            assert all(entry["dtype"] == "F32" for entry in json.loads(data).values())
        else:
            data.decode("ascii")


def save_while_steps_go_on(folder: Path) -> tuple[float, bool, bool]:
    """Seconds that `save` took, and whether the checkpoint was there before and after `flush`."""
    released = threading.Event()
    write = store.write_part

    def slow(*arguments):
        released.wait()
        return write(*arguments)

    checkpoints = CheckpointStore(folder)
    with patch.object(store, "write_part", slow):
        start = time.perf_counter()
        checkpoints.save(1, state_at(1), {})
        seconds = time.perf_counter() - start
        before = (folder / "step-00000001").exists()
        released.set()
        checkpoints.flush()
    dist.barrier()
    return seconds, before, (folder / "step-00000001").exists()


def test_writing_happens_in_the_background(tmp_path):
    for _, before, after in pool(2).run(save_while_steps_go_on, tmp_path):
        assert (before, after) == (False, True)


# ---- when it cannot be written ----


def stop_message(function, *arguments) -> str:
    with pytest.raises(Stop) as stopped:
        function(*arguments)
    return str(stopped.value)


def save_with_little_room(folder: Path) -> str:
    save(folder, [1])
    with patch.object(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)):
        return stop_message(save, folder, [2])


def test_room_is_checked_before_writing(tmp_path):
    for message in pool(2).run(save_with_little_room, tmp_path):
        assert "no room for checkpoint step-00000002: it takes 0.0 GB" in message
    assert [step for step, _ in pool(2).run(newest, tmp_path)] == [1, 1]


def save_on_a_full_disk(folder: Path) -> str:
    """The second rank may write no file longer than 2000 bytes."""
    save(folder, [1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        return stop_message(save, folder, [2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_part_that_cannot_be_written_stops_all_ranks_and_leaves_the_last_good_state(tmp_path):
    first, second = pool(2).run(save_on_a_full_disk, tmp_path)
    assert first == second
    assert "step-00000002 could not be written" in first
    assert "earlier checkpoints are untouched" in first
    assert not (tmp_path / "step-00000002").exists()
    assert [step for step, _ in pool(2).run(newest, tmp_path)] == [1, 1]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for message in pool(2).run(stop_message, save, tmp_path / "file" / "checkpoints", [1]):
        assert "could not be written" in message
        assert os.strerror(20) in message
