"""Runs that keep their state in memory: they resume from there, bit for bit, and leave nothing behind."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist

from pretrain.checkpoint import memory
from pretrain.recipe import Recipe
from pretrain.training.events import Hook, StepResult, TrainerView
from pretrain.training.hooks.rollbacks import Rollbacks
from pretrain.training.train import train
from tests.support.tiny import metrics, same_bits, tiny_recipe
from tests.support.workers import pool


class Broken(Exception):
    pass


class Steps(Hook):
    """Notes the steps that are taken."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.steps.append(result.step)


class Breaks(Steps):
    """At the boundary of step 7 every rank fails, or the run goes back, once."""

    def __init__(self, goes_back: bool):
        super().__init__()
        self.goes_back = goes_back

    def on_boundary(self, trainer: TrainerView) -> None:
        if trainer.progress.step == 7 and self.steps.count(7) == 1:
            if not self.goes_back:
                raise Broken
            next(hook for hook in trainer.hooks if isinstance(hook, Rollbacks)).repeat("made up", "")


def run_on(root: Path, nodes: list[str], recipe: Recipe, folder: Path, breaks: str = "") -> list[int]:
    """Trains with a rank on each of these nodes. Returns the steps that were taken."""
    node = nodes[dist.get_rank()]
    hook = Breaks(breaks == "goes back") if breaks else Steps()
    with patch.object(memory, "ROOT", root / node), patch.dict(os.environ, SLURMD_NODENAME=node):
        (root / node).mkdir(parents=True, exist_ok=True)
        try:
            train(recipe, folder, [hook])
        except Broken:
            dist.barrier()
    return hook.steps


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    pool(2).run(train, recipe_of(corpus), folder)
    return folder


def recipe_of(corpus: Path, every: int = 0) -> Recipe:
    """With a checkpoint on disk after step 4."""
    short = {"stages": [{"name": "a", "steps": 10}], "validation": {"rows": 8}}
    return tiny_recipe(corpus, **short, checkpoint={"every": 4, "memory_every": every})


def left(root: Path) -> list[Path]:
    return list(root.rglob("step-*"))


def test_a_run_that_loses_a_node_goes_on_from_the_memory_of_the_other(corpus, tmp_path, undisturbed):
    recipe, root, folder = recipe_of(corpus, every=3), tmp_path / "nodes", tmp_path / "run"
    pool(2).run(run_on, root, ["n1", "n2"], recipe, folder, "fails")
    assert {path.name for path in left(root)} == {"step-00000006.start-1"}
    assert pool(2).run(run_on, root, ["n2", "n2"], recipe, folder) == [[7, 8, 9, 10]] * 2
    assert same_bits(folder, undisturbed)
    assert metrics(folder) == metrics(undisturbed)
    assert all("n1" in path.parts for path in left(root))  # of the node that was lost


def test_a_rollback_goes_to_the_checkpoint_on_disk(corpus, tmp_path, undisturbed):
    recipe, root, folder = recipe_of(corpus, every=1), tmp_path / "nodes", tmp_path / "run"
    steps = [*range(1, 8), *range(5, 11)]
    assert pool(2).run(run_on, root, ["n1", "n2"], recipe, folder, "goes back") == [steps] * 2
    assert same_bits(folder, undisturbed)
    assert [list(node.iterdir()) for node in root.iterdir()] == [[], []]
