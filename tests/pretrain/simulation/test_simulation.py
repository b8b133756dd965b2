"""What a simulated rank counts is what a rank of a real run sends."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pretrain.__main__ import main
from pretrain.checkpoint import even, parts
from pretrain.data import Corpus
from pretrain.recipe import Recipe, resolve
from pretrain.simulation.group import only_rank
from pretrain.simulation.messages import Sent, recorded
from pretrain.simulation.rank import SimulatedRank
from pretrain.training import stages, trainer
from pretrain.training.hooks import checkpoints
from pretrain.training.reading import Reader
from pretrain.training.train import train
from tests.support.home import HOME
from tests.support.tiny import tiny_recipe, write_recipe
from tests.support.workers import pool

Segments = list[tuple[str, Counter[Sent]]]
MODEL = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)
STAGES = [
    {"name": "small", "steps": 3},
    {"name": "deep", "steps": 3, "grow": {"stack": {"moments": "reset"}}, "shape": {"layers": 4}},
    {"name": "wide", "steps": 3, "grow": "widen", "shape": {"hidden": 64, "heads": 8, "ffn": 128}},
]


@contextmanager
def small_files() -> Iterator[None]:
    """So that some rows of the tiny model are written by others than their owners."""
    with patch.object(parts, "FULL", 2**10):
        yield


def segments(recipe: Recipe, folder: Path) -> Segments:
    """Of a real run, what each start, step, change of shape and checkpoint sends. Validation and agreements of ranks
    on what to do are left out."""
    found: Segments = []

    def recording(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with recorded() as sent:
                result = function(*arguments, **options)
            found.append((name, Counter(sent)))
            return result

        return call

    places = {
        "start of": (stages, "start_engine"),
        "change to": (stages, "move"),
        "rows of a step of": (Reader, "read"),
        "step of": (trainer, "update"),
        "checkpoint of": (checkpoints, "read_state"),
        "files of": (even, "evenly"),
    }
    with small_files(), ExitStack() as patches:
        for name, (place, function) in places.items():
            patches.enter_context(patch.object(place, function, recording(name, getattr(place, function))))
        train(recipe, folder)
    return found


def simulated(recipe: Recipe, corpus: Path, rank: int, num_ranks: int) -> dict[str, Counter[Sent]]:
    opened = Corpus.open(corpus)
    run = resolve(recipe, opened.vocab_size, num_ranks)
    with small_files(), only_rank(rank, num_ranks):
        return {event.name: event.sent for event in SimulatedRank(run, opened, on_cpu=True).events()}


def by_stage(found: Segments) -> dict[str, Counter[Sent]]:
    """As a simulation names them."""
    names = iter([stage["name"] for stage in STAGES])
    events: dict[str, Counter[Sent]] = {}
    stage = ""
    for what, sent in found:
        if what in ("start of", "change to"):
            stage = next(names)
        if what == "files of":
            events[f"checkpoint of {stage}"] += sent
        else:
            events[f"{what} {stage}"] = sent
    return events


CASES = [(2, 0), (4, 1)]


@pytest.mark.parametrize(("num_ranks", "zero"), CASES)
def test_it_counts_exactly_what_the_ranks_of_a_run_send(corpus, tmp_path, num_ranks, zero):
    recipe = tiny_recipe(
        corpus,
        precision="fp32",
        model=MODEL,
        stages=STAGES,
        schedule={"warmup": 1},
        validation={"rows": 8},
        deepspeed=f"ds_configs/zero{zero}.json",
    )
    real = pool(num_ranks).run(segments, recipe, tmp_path / "run", timeout_seconds=600)
    for rank in {0, num_ranks - 1}:
        expected = by_stage(real[rank])
        counted = simulated(recipe, corpus, rank, num_ranks)
        assert counted.keys() == expected.keys() and len(counted) == 12
        for name, sent in expected.items():
            assert counted[name] == sent, (rank, name)


def test_the_verb_prints_what_it_counts_and_leaves_no_trace(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = str(write_recipe(tmp_path / "tiny.yaml", corpus, deepspeed=str(HOME / "ds_configs" / "zero1.json")))
    main(["train", recipe, "--set", "batch.global=8", "--simulate-ranks", "4"])
    said = " ".join(capsys.readouterr().out.split())
    assert "tiny on 4 ranks: the most that one of ranks 0, 2, 3 sends and works" in said
    for event in ("start of tied", "change to deep", "step of deep", "checkpoint of deep"):
        assert event in said
    assert re.search(r"deep: a rank takes [\d.]+ GiB of its GPU, which .*h100.* has", said)
    assert re.search(r"deep: files of a checkpoint: [2-4], the largest [\d.]+ of [\d.]+ MB", said)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rank", "3"], "--rank 3 needs --simulate-ranks"),
        (["--simulate-ranks", "0"], "--simulate-ranks 0 is too few"),
        (["--simulate-ranks", "4", "--rank", "4"], "--rank 4 is none of the 4 ranks; give 0 to 3"),
        (["--simulate-ranks", "3"], "batch.global 8 is not a multiple of the 3"),
        (["--simulate-ranks", "8", "--set", "precision=fp16"], "precision fp16 is not simulated"),
    ],
)
def test_what_cannot_be_simulated_is_said_in_a_line(corpus, tmp_path, given, said, capsys):
    recipe = str(write_recipe(tmp_path / "tiny.yaml", corpus, deepspeed=str(HOME / "ds_configs" / "zero1.json")))
    assert main(["train", recipe, *given]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
