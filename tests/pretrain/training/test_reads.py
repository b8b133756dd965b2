"""What all ranks need at a start is read by one rank; every other one opens only what it alone uses."""

import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from model.errors import UserError
from pretrain.data import Corpus
from pretrain.recipe import Recipe
from pretrain.recipe.load import recipe_of
from pretrain.recipe.timeline import Timeline
from pretrain.recipe.until import until_in_steps
from pretrain.runs.folder import RunFolder
from pretrain.training.preflight import check_shards
from tests.support.tiny import tiny_recipe, train_until
from tests.support.workers import pool

STEPS = [{"name": "a", "steps": 8}]
SHARED = ("manifest.json", "tokenizer.json", "recipe.yaml", "checked-shards.json", "index.json", "SHA256SUMS", "latest")


def opened(recipe: Recipe, run: Path, step: int) -> set[str]:
    """The shared files that this rank opens in a start of the run that goes to a step."""
    names: list[str] | None = []

    def listen(event: str, arguments: tuple) -> None:  # it stays for good
        if names is not None and event == "open" and isinstance(arguments[0], str | Path):
            names.append(Path(arguments[0]).name)

    sys.addaudithook(listen)
    train_until(recipe, run, step)
    found, names = set(names) & set(SHARED), None
    return found


def test_one_rank_opens_the_files_that_all_need(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=STEPS, validation={"rows": 8})
    pool(2).run(train_until, recipe, tmp_path / "run", 1)
    assert pool(2).run(opened, recipe, tmp_path / "run", 2) == [set(SHARED), set()]


def stats_of_shards(corpus: Path, folder: Path, nodes: tuple[int, ...]) -> int:
    """How many files of the corpus this rank looks at, where rank r is on node nodes[r]."""
    import torch.distributed as dist

    rank, looked_at = dist.get_rank(), set()
    stat = Path.stat

    def counted(self: Path, *arguments, **options):
        looked_at.update({self.name} if self.parent == corpus else ())
        return stat(self, *arguments, **options)

    local_rank = nodes[:rank].count(nodes[rank])
    opened = Corpus.open(corpus)
    with patch.object(Path, "stat", counted), patch.dict("os.environ", LOCAL_RANK=str(local_rank)):
        check_shards(opened, RunFolder(folder))
    return len(looked_at)


def test_one_rank_of_a_node_looks_at_the_shards(corpus, tmp_path):
    num_files = sum(file.suffix in (".bin", ".idx", ".words") for file in corpus.iterdir())
    assert pool(4).run(stats_of_shards, corpus, tmp_path, (0, 0, 1, 1)) == [num_files, 0, num_files, 0]


def seen_by_another_node(corpus: Path, elsewhere: Path, folder: Path) -> str:
    """Rank 1 is of a node that has another disk in place of the corpus."""
    import torch.distributed as dist

    opened = Corpus.open(corpus)
    if dist.get_rank() == 1:
        stat = Path.stat

        def redirected(self: Path, **options):
            return stat(elsewhere / self.name if self.parent == corpus else self, **options)

        patching = patch.object(Path, "stat", redirected)
    else:
        patching = patch.dict("os.environ")
    with patching, patch.dict("os.environ", LOCAL_RANK="0"), pytest.raises(UserError) as stopped:
        check_shards(opened, RunFolder(folder))
    return str(stopped.value)


def test_a_node_that_sees_other_files_is_named(corpus, tmp_path):
    elsewhere = shutil.copytree(corpus, tmp_path / "elsewhere")
    shard = next(elsewhere.glob("train-*.bin"))
    num_bytes = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-2])
    for message in pool(2).run(seen_by_another_node, corpus, elsewhere, tmp_path):
        assert f"{num_bytes - 2:,} bytes on" in message and f"{num_bytes:,} on the first node" in message
    shard.unlink()
    for message in pool(2).run(seen_by_another_node, corpus, elsewhere, tmp_path):
        assert f"{shard.name} cannot be read on" in message


def test_a_recipe_that_the_launcher_hands_on_is_the_one_that_it_read(corpus):
    recipe = tiny_recipe(corpus, stages=[*STEPS, {"name": "b", "steps": 2, "grow": "stack", "shape": {"layers": 4}}])
    assert recipe_of(recipe.model_dump_json(by_alias=True)) == recipe


def test_a_recipe_that_is_handed_on_keeps_a_rule_beside_grow_when(corpus):
    first, second = {**STEPS[0], "until": {"loss": {"below": 2.2}}}, {"name": "b", "steps": 2, "grow": "stack"}
    recipe = tiny_recipe(corpus, stages=[first, second | {"grow_when": "auto", "shape": {"layers": 4}}])
    for each in (recipe, recipe_of(recipe.model_dump_json(by_alias=True))):
        until = until_in_steps(each.stages, 0, Timeline("steps", (0, 8), 10))
        assert until and {rule.key for rule in until.rules} == {"auto", "loss"}
