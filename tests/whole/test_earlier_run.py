"""A run folder, recipe and checkpoint written before the modules moved still resume, and end where they would have."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.checkpoint.files import write_index, write_part
from pretrain.checkpoint.parts import Parts
from pretrain.recipe import load_recipe
from pretrain.training.train import train
from tests.support.tiny import final_state, losses
from tests.support.workers import pool

EARLIER = Path(__file__).parent / "earlier_run"
EXPECTED = json.loads((EARLIER / "expected.json").read_text("utf-8"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "place"))


def resume(place: Path) -> None:
    """In the folder that the recipe's paths start from, as a user would."""
    before = Path.cwd()
    os.chdir(place)
    try:
        train(load_recipe("run/recipe.yaml", []), Path("run"))
    finally:
        os.chdir(before)


def test_it_resumes_and_ends_where_the_earlier_version_did(place):
    """Bitwise on the machine that wrote it; other processors sum in another order, hence the tolerance."""
    pool(1).run(resume, place)
    assert losses(place / "run") == pytest.approx(EXPECTED["losses"], rel=1e-5)
    sums = {name: tensor.double().sum().item() for name, tensor in final_state(place / "run").items()}
    assert sums == pytest.approx(EXPECTED["sums"], rel=1e-3, abs=1e-3)


def test_its_decision_splits_the_first_stage_as_it_did(place):
    pool(1).run(resume, place)
    names = [line["stage"] for line in map(json.loads, (place / "run" / "metrics.jsonl").open()) if "loss" in line]
    assert list(dict.fromkeys(names)) == ["tied", "tied/2", "untied", "mixed", "deep"]


def test_its_checkpoint_is_read_to_the_bit(place):
    folder = find_checkpoint(place / "run")
    state, run = load_checkpoint(folder)
    written = load_file(folder / "rank-00000.safetensors")
    read = [tensor for record in state.records.values() for tensor in record.tensors()]
    assert len(read) == len(written)
    assert run["progress"]["step"] == 22
    assert set(state.steps.values()) == {22}
    digest = {tensor.contiguous().numpy().tobytes() for tensor in written.values()}
    assert {tensor.contiguous().numpy().tobytes() for tensor in read} == digest


def test_resuming_it_equals_resuming_a_checkpoint_that_is_written_today(place, tmp_path):
    """The same steps from a copy whose checkpoint went through today's reader and writer: equal bits on any machine."""
    other = Path(shutil.copytree(place, tmp_path / "rewritten"))
    pool(1).run(rewrite, find_checkpoint(other / "run"))
    for each in (place, other):
        pool(1).run(resume, each)
    ours, theirs = final_state(place / "run"), final_state(other / "run")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def rewrite(folder: Path) -> None:
    state, run = load_checkpoint(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    parts = Parts.of(state)
    write_index(folder, parts, run, {0: write_part(folder, 0, parts)})


def test_the_recipe_that_it_saved_is_read_as_it_was_meant(place):
    """What a run dumps of its recipe is compared when it resumes: no key may vanish or change its value."""
    saved = yaml.safe_load((place / "run" / "recipe.yaml").read_text("utf-8"))
    read = json.loads(load_recipe(str(place / "run" / "recipe.yaml"), []).model_dump_json(by_alias=True))
    assert part_of(read, saved) == saved


def part_of(whole: Any, like: Any) -> Any:
    """`whole` with only those keys that `like` has, at every depth."""
    if isinstance(like, dict):
        return {key: part_of(whole[key], value) for key, value in like.items() if key in whole}
    if isinstance(like, list):
        return [part_of(*each) for each in zip(whole, like, strict=True)]
    return whole
