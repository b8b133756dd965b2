"""A run leaves at a checkpoint when it is asked to, and goes on as if it had not."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist

from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode
from pretrain.launch.survivors import CAUSE
from pretrain.recipe import Recipe
from pretrain.runs.folder import RunFolder
from pretrain.training.train import train
from tests.support.tiny import same_bits, tiny_recipe
from tests.support.workers import pool

STAGES = [{"name": "long", "steps": 10}]


def asked(recipe: Recipe, folder: Path) -> str:
    """On a rank: trains until it leaves, asked from the start on."""
    if dist.get_rank() == 0:
        RunFolder(folder).path.mkdir(exist_ok=True)
        RunFolder(folder).regroup.touch()
    with patch.dict(os.environ, {CAUSE: "{}"}), pytest.raises(Stop) as stopped:
        train(recipe, folder)
    assert stopped.value.code == ExitCode.REGROUP
    return str(stopped.value)


def test_the_run_leaves_at_its_next_checkpoint_and_goes_on(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=STAGES)
    (line, _) = pool(2).run(asked, recipe, tmp_path / "run")
    assert line == "saved at step 4, to continue on the nodes that are there now"
    assert not RunFolder(tmp_path / "run").regroup.exists()
    pool(2).run(train, recipe, tmp_path / "run")
    pool(2).run(train, recipe, tmp_path / "reference")
    assert same_bits(tmp_path / "run", tmp_path / "reference")
