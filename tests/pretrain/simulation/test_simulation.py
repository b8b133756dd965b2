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
from pretrain.cost.time.messages import messages
from pretrain.data import Corpus
from pretrain.recipe import Recipe, ResolvedStage, Run, resolve
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
    {"name": "small", "steps": 2},
    {"name": "deep", "steps": 2, "grow": {"stack": {"moments": "reset"}}, "shape": {"layers": 4}},
    {"name": "wide", "steps": 2, "grow": "widen", "shape": {"hidden": 64, "heads": 8, "ffn": 128}},
]
OF_ZERO_3 = [stage | {"steps": 5} for stage in STAGES[::2]]
"""It takes up to three steps to learn what it gathers when."""


@contextmanager
def small_files() -> Iterator[None]:
    """So that some rows of the tiny model are written by others than their owners."""
    with patch.object(parts, "FULL", 2**10):
        yield


def segments(recipe: Recipe, folder: Path) -> Segments:
    """Of a real run, what each start, step, validation, change of shape and checkpoint sends. Agreements of ranks on
    what to do are left out."""
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
        "validation of": (trainer, "evaluate"),
        "checkpoint of": (checkpoints, "read_state"),
        "files of": (even, "evenly"),
    }
    with small_files(), ExitStack() as patches:
        for name, (place, function) in places.items():
            patches.enter_context(patch.object(place, function, recording(name, getattr(place, function))))
        train(recipe, folder)
    return found


def by_stage(found: Segments, recipe: Recipe) -> dict[str, Counter[Sent]]:
    """As a simulation names them; of several alike the last. Steps right after a validation are apart."""
    names = iter([stage.name for stage in recipe.stages])
    events: dict[str, Counter[Sent]] = {}
    stage, before = "", ""
    for what, sent in found:
        if what in ("start of", "change to"):
            stage = next(names)
        if what == "step of" and before == "validation of":
            what = "step after validation of"
        if what == "files of":
            events[f"checkpoint of {stage}"] += sent
        else:
            events[f"{what} {stage}"] = sent
        before = what if what.startswith(("step", "validation")) else before
    return events


def simulated(run: Run, corpus: Path, rank: int) -> dict[str, Counter[Sent]]:
    with small_files(), only_rank(rank, run.num_ranks):
        return {event.name: event.sent for event in SimulatedRank(run, Corpus.open(corpus), on_cpu=True).events()}


def gathered_once(stage: ResolvedStage) -> Counter[Sent]:
    """The weights that ZeRO 3 gathers for a micro-batch."""
    gathering = [message for message in messages(stage, on_cpu=True) if message.when == "gathering"]
    return Counter(Sent(message.kind, stage.data_parallel, message.num_bytes) for message in gathering)


def kinds(sent: Counter[Sent]) -> Counter[str]:
    return Counter(each.kind for each in sent.elements())


CASES = [(2, 0, 1), (4, 1, 1), (4, 2, 2), (2, 3, 1), (4, 3, 1)]


@pytest.mark.parametrize(("num_ranks", "zero", "tensor_parallel"), CASES)
def test_it_counts_exactly_what_the_ranks_of_a_run_send(corpus, tmp_path, num_ranks, zero, tensor_parallel):
    """With tensor parallelism the sizes of some messages depend on how many tokens are masked. After a validation
    ZeRO 3 has all weights for one micro-batch."""
    recipe = tiny_recipe(
        corpus,
        precision="fp32",
        model=MODEL,
        stages={2: STAGES[::2], 3: OF_ZERO_3}.get(zero, STAGES),
        layout={"tensor_parallel": tensor_parallel},
        schedule={"warmup": 1},
        validation={"rows": 8, "every": 4},
        deepspeed=f"ds_configs/zero{zero}.json",
    )
    run = resolve(recipe, Corpus.open(corpus).vocab_size, num_ranks)
    real = pool(num_ranks).run(segments, recipe, tmp_path / "run", timeout_seconds=600)
    for rank in {0, num_ranks - 1}:
        sent, counted = by_stage(real[rank], recipe), simulated(run, corpus, rank)
        assert len(counted) == 4 * len(run.stages)
        for name, expected in counted.items():
            if name.startswith("step") and tensor_parallel > 1:
                assert kinds(sent[name]) == kinds(expected), (rank, name)
            else:
                assert sent[name] == expected, (rank, name)
        for stage in run.stages:
            after = sent.get(f"step after validation of {stage.name}")
            if after and tensor_parallel == 1:
                assert after + gathered_once(stage) == counted[f"step of {stage.name}"], (rank, stage.name)


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
