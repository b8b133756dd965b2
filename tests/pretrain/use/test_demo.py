"""The demo, cut short: ranks started by torchrun, two changes of shape, the picture, and the closing page."""

import json
import os
import random
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import matplotlib.image
import pytest

from pretrain.data import Corpus, PrepareOptions, prepare
from pretrain.recipe import load_recipe
from pretrain.use.demo import WORD_LETTERS, held_out_words, show

OVERRIDES = {
    "stages.tied.steps": 4,
    "stages.untied.steps": 4,
    "stages.deep.steps": 6,
    "schedule.warmup": 3,
    "batch.global": 8,
    "validation.rows": 16,
    "validation.every": 5,
}
STEP_KEYS = {"step", "stage", "loss", "mlm_loss", "mlm_accuracy", "lr", "grad_norm", "tokens", "flops", "seconds"} | {
    "tokens_per_second"
}


def made_up_corpus(folder: Path, tokenizer: str) -> Corpus:
    draw = random.Random(0)
    words = ["house", "people", "country", "before", "always", "river", "mountain", "congress", "a", "the", "of", "in"]
    sentences = [" ".join(draw.choices(words, k=draw.randint(16, 24))).capitalize() + "." for _ in range(500)]
    text = folder / f"{tokenizer}.txt"
    text.write_text("\n\n".join(" ".join(sentences[first : first + 10]) for first in range(0, 500, 10)), "utf-8")
    prepare(
        PrepareOptions(
            (str(text),), folder / tokenizer, tokenizer=tokenizer, vocab_size=120, valid_share=0.2, num_workers=1
        )
    )
    return Corpus.open(folder / tokenizer)


@pytest.fixture(scope="module", params=["wordpiece", "characters"])
def corpus(request, tmp_path_factory):
    return made_up_corpus(tmp_path_factory.mktemp("corpus"), request.param)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a demo of a few steps, trained by two processes."""
    folder = tmp_path_factory.mktemp("demo")
    corpus = made_up_corpus(folder, "wordpiece")
    values = OVERRIDES | {"data.corpus": corpus.directory}
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", "train", "demo", "--nproc", "2", "--runs", str(folder / "runs"), *overrides],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout, "a log is not a terminal: no colours, no moving bar"
    assert "stage deep: 4x128" in done.stdout
    made = folder / "runs" / "demo"
    before = ("checking demo", "starting processes", f"opened {corpus.directory}", "building the engine")
    after = (f"report      {made / 'report.html'}", f"checkpoint  {made / 'checkpoints' / 'step-00000014'}")
    shown = [*before, "stage tied: 2x128", *after, f"next        ./launch.sh fill {made} "]
    places = [done.stdout.find(f"{line}") for line in shown]
    assert -1 not in places and places == sorted(places), done.stdout
    (board,) = (made / "tensorboard").iterdir()
    assert b"deep: 4x128" in board.read_bytes(), "TensorBoard marks the changes of shape"
    return made


def test_every_step_and_event_is_written_down(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if "event" not in line]
    assert [line["step"] for line in steps] == list(range(1, 15))
    assert all(set(line) == STEP_KEYS for line in steps)
    assert all(
        earlier[key] < later[key] for earlier, later in pairwise(steps) for key in ("tokens", "flops", "seconds")
    )
    growth = [line for line in lines if line.get("event") == "growth"]
    assert [(line["operator"], line["step"]) for line in growth] == [("unshare", 4), ("identity_layers", 8)]
    assert growth[0]["loss_after"] == pytest.approx(growth[0]["loss_before"], abs=1e-2), "unsharing keeps the function"


def test_the_summary_has_every_stage(run):
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert summary["steps"] == 14
    assert [stage["name"] for stage in summary["stages"]] == ["tied", "untied", "deep"]
    assert [stage["steps"] for stage in summary["stages"]] == [4, 4, 6]
    assert [growth["operator"] for growth in summary["growth"]] == ["unshare", "identity_layers"]
    assert summary["initial_valid_loss"] > summary["valid_loss"] > 0


def test_the_picture_is_drawn(run):
    pixels = matplotlib.image.imread(run / "loss.png")  # [height, width, colours] in 0..1
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 600
    assert pixels[..., :3].std() > 0.02, "an empty picture"


def test_the_closing_page_tells_what_was_learned(run, capsys):
    show(run)
    page = capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    for stage in summary["stages"]:
        assert f"{stage['name']} " in page
        assert f"{stage['loss']:.3f}" in page
    for number in (summary["initial_valid_loss"], summary["valid_loss"]):
        assert f"{number:.3f}" in page
    assert page.count("  truth ") == page.count("  guess ") == 3
    assert str(run / "loss.png") in page


def test_held_out_words_are_words_of_held_out_sentences(corpus):
    words = list(islice(held_out_words(corpus, 100), 20))
    assert words == list(islice(held_out_words(corpus, 100), 20)), "the same at every start"
    assert len(words) >= 5
    valid = corpus.split("valid").shards[0].tokens.tolist()
    for word in words:
        sentence = list(word.sentence)
        assert any(valid[start : start + len(sentence)] == sentence for start in range(len(valid)))
        assert corpus.tokenizer.decode(sentence[word.first : word.last]) == word.text
        assert word.text.isalpha() and len(word.text) in WORD_LETTERS
        masked = word.masked(corpus.special.mask)
        assert [old for old, new in zip(sentence, masked, strict=True) if old != new] == sentence[
            word.first : word.last
        ]
        before, after = word.surroundings(corpus)
        assert (before + word.text + after).replace(" ", "") == corpus.tokenizer.decode(sentence).replace(" ", "")


def test_the_demo_changes_its_shape_twice_under_zero():
    recipe = load_recipe("demo")
    assert [list(stage.grow[0]) for stage in recipe.stages[1:]] == [["unshare"], ["identity_layers"]]
    assert recipe.deepspeed == "ds_configs/zero1.json"
