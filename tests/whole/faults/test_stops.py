"""What ends a run before it can do harm, or when it cannot go on: each a clear line, with the last good state kept."""

import os
import shutil
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist

from model.errors import UserError
from pretrain.data import Corpus, TrainingData
from pretrain.lease import Start
from pretrain.recipe import Recipe
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Hook, TrainerView
from pretrain.training.preflight import check_run
from pretrain.training.train import train
from tests.support.tiny import stop_message, tiny_recipe, train_until
from tests.support.workers import pool

STEPS = [{"name": "a", "steps": 12}]


def test_a_second_run_in_the_same_folder_is_refused(corpus, tmp_path, monkeypatch):
    recipe = tiny_recipe(corpus, stages=STEPS)
    monkeypatch.setattr("pretrain.lease.start.RENEWAL_SECONDS", 0.1)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    first = Start.claim(tmp_path / "run" / "leases", 1)
    with pytest.raises(
        UserError, match=rf"a run is active in .* \(start 1, process {os.getpid()} on .*\); wait for it"
    ):
        check_run(recipe, 1, tmp_path / "run")
    first.end()
    check_run(recipe, 1, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["leases"]


def test_a_run_goes_on_under_another_layout_but_not_with_another_recipe(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=STEPS)
    pool(2).run(train_until, recipe, tmp_path / "run", 2)
    RunFolder(tmp_path / "run").check(
        tiny_recipe(
            corpus,
            stages=[{"name": "a", "steps": 12, "deepspeed": "ds_configs/zero3.json", "batch": {"micro": 4}}],
            layout={"tensor_parallel": 2},
            checkpoint={"every": 1},
        )
    )
    with pytest.raises(UserError, match=r"another recipe \(its batch differ"):
        RunFolder(tmp_path / "run").check(tiny_recipe(corpus, stages=STEPS, batch={"global": 16}))


@pytest.mark.parametrize("shard", ["one/train-00000.bin", "two/train-00000.idx"])
def test_a_shard_changed_since_prepare_is_named(corpus, tmp_path, shard):
    """In any corpus of a mixture."""
    for name in ("one", "two"):
        shutil.copytree(corpus, tmp_path / name)
    (tmp_path / "mixture.yaml").write_text("one: 1\ntwo: 0.5\n")
    shard = tmp_path / shard
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    recipe = tiny_recipe(tmp_path / "mixture.yaml", stages=STEPS)
    for message in pool(2).run(stop_message, train, recipe, tmp_path / "run"):
        assert message.startswith(f"{shard} is not what prepare wrote (its checksum differs)")


def test_a_truncated_shard_is_named(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    shard = tmp_path / "corpus" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"train-00000.bin holds \d+ tokens, \d+ were announced; prepare"):
        Corpus.open(tmp_path / "corpus").split("train")


def test_a_run_folder_that_cannot_be_written_is_one_line(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    recipe = tiny_recipe(corpus, stages=STEPS)
    for message in pool(2).run(stop_message, train, recipe, tmp_path / "file" / "run"):
        assert f"cannot write to {tmp_path}/file/run: {os.strerror(20)}; choose another folder by --runs" in message


class Deletes(Hook):
    """The run's folder, after the third step."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_boundary(self, trainer: TrainerView) -> None:
        if trainer.progress.step == 3:
            shutil.rmtree(self.folder)


def message_in_a_folder_that_is_deleted(recipe: Recipe, folder: Path) -> str:
    with pytest.raises(UserError) as stopped:
        train(recipe, folder, [Deletes(folder)])
    return str(stopped.value)


def test_a_folder_that_is_deleted_under_way_is_one_line_and_stays_deleted(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=STEPS, checkpoint={"every": 4})
    (message,) = pool(1).run(message_in_a_folder_that_is_deleted, recipe, tmp_path / "run")
    assert "metrics.jsonl has been deleted while the run wrote it; start the run again" in message
    assert not (tmp_path / "run").exists()


def hang(recipe: Recipe, folder: Path, log: Path) -> None:
    """Rank 1 never comes back from reading its rows of step 6."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    read, calls = TrainingData.next, []

    def reading(self: TrainingData, *arguments, **options):
        calls.append(self._split.name)
        if dist.get_rank() == 1 and calls.count("train") == 6:
            time.sleep(3600)
        return read(self, *arguments, **options)

    with patch.object(TrainingData, "next", reading):
        train(recipe, folder)


def test_a_rank_that_hangs_is_named_with_what_it_does(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=STEPS, faults={"timeout_minutes": 0.1}, checkpoint={"every": 4})
    with pytest.raises(AssertionError, match="the process died"):
        pool(2).run(hang, recipe, tmp_path / "run", tmp_path / "log")
    node = os.uname().nodename
    assert (
        f'espalier: no progress for 6 s: rank 1 on {node} stuck in "reading the rows of step 6", the others wait in '
        '"step 6"; start again to resume' in (tmp_path / "log").read_text()
    )
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-00000004\n"
