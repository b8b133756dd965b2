"""Whole runs on gloo ranks: stages, metrics, summary, and the same training under any layout."""

import itertools
import json
import statistics
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.checkpoint import find_checkpoint, read_index
from pretrain.compare.runs import FinishedRun
from pretrain.data import Corpus
from pretrain.recipe import Recipe
from pretrain.runs.folder import RunFolder
from pretrain.training.train import train
from pretrain.use.evaluate import evaluate_checkpoint
from tests.support.corpora import made_up_documents, prepared
from tests.support.workers import pool

STEPS = 4


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("trainer"), made_up_documents(60))


def recipe(corpus: Corpus, **changes) -> Recipe:
    values = {
        "name": "tiny",
        "model": dict(
            layers=4, hidden=32, heads=4, ffn=64, sharing=2, max_positions=48, hidden_dropout=0, attention_dropout=0
        ),
        "data": {"corpus": str(corpus.directory)},
        "optimizer": {"lr": 3e-3, "betas": [0.9, 0.98]},
        "schedule": {"warmup": 4},
        "sequence": 32,
        "batch": {"global": 8, "micro": 2},
        "validation": {"rows": 16},
        "stages": [
            {"name": "tied", "steps": STEPS},
            {"name": "untied", "steps": STEPS, "grow": "unshare"},
            {"name": "deep", "steps": STEPS, "grow": "stack", "shape": {"layers": 6}},
            {"name": "long", "steps": STEPS, "sequence": 48, "batch": {"micro": 4}},
        ],
    }
    return Recipe.model_validate(values | changes)


def read(folder: Path) -> tuple[list[dict], list[dict], dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    return [line for line in lines if "event" not in line], [line for line in lines if "event" in line], summary


LAYOUTS = {
    "1 rank": (1, {}),
    "2 ranks, ZeRO 2": (2, {"deepspeed": "ds_configs/zero2.json"}),
    "tensor parallel 2, ZeRO 1": (2, {"layout": {"tensor_parallel": 2}}),
}


@pytest.fixture(scope="session")
def runs(corpus, tmp_path_factory) -> dict[str, Path]:
    """The recipe, trained under several layouts; and once with another layout and ZeRO stage in every stage."""
    folders = {}
    for name, (ranks, changes) in LAYOUTS.items():
        folders[name] = tmp_path_factory.mktemp("runs") / "run"
        pool(ranks).run(train, recipe(corpus, **changes), folders[name])
    stages = [stage.model_dump(by_alias=True, exclude_none=True) for stage in recipe(corpus).stages]
    for stage, tp, zero in zip(stages, (1, 2, 1, 2), (0, 3, 1, 2), strict=True):
        layout = {"tensor_parallel": tp, "sequence_parallel": zero == 3}
        stage |= {"layout": layout, "deepspeed": f"ds_configs/zero{zero}.json"}
    folders["a layout a stage"] = tmp_path_factory.mktemp("runs") / "run"
    pool(2).run(train, recipe(corpus, stages=stages), folders["a layout a stage"])
    return folders


def test_metrics_and_summary(runs):
    steps, events, summary = read(runs["2 ranks, ZeRO 2"])
    assert [line["step"] for line in steps] == list(range(1, 4 * STEPS + 1))
    wanted = {"step", "stage", "loss", "mlm_loss", "mlm_accuracy", "lr", "grad_norm", "tokens", "flops", "seconds"}
    assert all(wanted | {"tokens_per_second"} <= line.keys() for line in steps)
    assert all(line["grad_norm"] > 0 for line in steps)
    assert all(a["tokens"] < b["tokens"] and a["flops"] < b["flops"] for a, b in itertools.pairwise(steps))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3

    growth = {event["operator"]: event for event in events if event["event"] == "growth"}
    assert growth["unshare"]["step"] == STEPS
    assert growth["unshare"]["loss_after"] == growth["unshare"]["loss_before"]
    assert growth["stack"]["step"] == 2 * STEPS
    assert growth["stack"]["loss_after"] != growth["stack"]["loss_before"]
    assert growth["stack"]["moments"] == "transform"

    assert summary["steps"] == 4 * STEPS
    assert summary["tokens"] == steps[-1]["tokens"]
    assert summary["valid_loss"] < summary["initial_valid_loss"]
    assert [stage["name"] for stage in summary["stages"]] == ["tied", "untied", "deep", "long"]
    folder = runs["2 ranks, ZeRO 2"]
    compared = FinishedRun.read(folder)
    assert compared.validated_on.tokens == 48  # those of the last stage
    assert compared.validated_on.rows == compared.recipe.validation.rows
    assert compared.costs["flops"] == summary["flops"]
    progress = read_index(find_checkpoint(folder))["run"]["progress"]
    assert progress["growth_seconds"] == pytest.approx(sum(event["seconds"] for event in growth.values()))
    assert list((folder / "tensorboard").iterdir())
    assert json.loads((folder / "versions.json").read_text())["deepspeed"]


@pytest.mark.parametrize("name", [*LAYOUTS, "a layout a stage"])
def test_every_layout_trains_the_same(runs, name):
    """Same rows, same masks, same loss normalisation: equal but for the order of sums in fp32."""
    reference, other = read(runs["1 rank"])[0], read(runs[name])[0]
    for key in ("loss", "grad_norm", "lr", "tokens", "mlm_accuracy"):
        assert [line[key] for line in other] == pytest.approx([line[key] for line in reference], rel=2e-4), key


@pytest.mark.parametrize("name", ["1 rank", "2 ranks, ZeRO 2", "a layout a stage"])
def test_update_sizes_are_logged_around_every_change_and_do_not_jump(runs, name):
    sizes = {event["step"]: event["rms"] for event in read(runs[name])[1] if event["event"] == "update_size"}
    assert sorted(sizes) == list(range(STEPS - 2, 4 * STEPS + 1))  # from the third last step of the first stage on
    usual = {step: statistics.median(rms.values()) for step, rms in sizes.items()}
    for change in (STEPS, 2 * STEPS):
        assert usual[change] / 1.5 < usual[change + 1] < usual[change] * 1.5
        assert len(sizes[change + 1]) > len(sizes[change]), "the new tensors are measured"


def evaluated(folder: Path) -> tuple[float, float]:
    result, num_rows, _ = evaluate_checkpoint(folder, None)
    assert num_rows == 16  # the recipe's
    return result.loss, result.accuracy


def test_evaluate_repeats_the_last_validation(runs):
    summary = read(runs["tensor parallel 2, ZeRO 1"])[2]
    (result,) = pool(1).run(evaluated, runs["tensor parallel 2, ZeRO 1"])
    assert result == pytest.approx((summary["valid_loss"], summary["valid_accuracy"]), rel=1e-5)


def test_a_folder_with_another_recipe_is_refused(runs, corpus):
    folder = RunFolder(runs["1 rank"])
    before = sorted(folder.path.rglob("*"))
    with pytest.raises(UserError, match=r"holds a run of another recipe \(its optimizer differ"):
        folder.check(recipe(corpus, optimizer={"lr": 1e-4}))
    with pytest.raises(UserError, match="finished"):
        folder.check(recipe(corpus))
    assert sorted(folder.path.rglob("*")) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path, corpus):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not the folder of a run"):
        RunFolder(tmp_path).check(recipe(corpus))


VARIANTS = [
    {"name": "dropping", "steps": 3, "shape": {"layer_drop": {"keep": 0.5, "gamma": 0.5}}},
    {"name": "keeping", "steps": 2, "shape": {"layer_drop": None}},
    {"name": "masked", "steps": 4, "grow": {"mask_growth": {"steps": 3}}, "shape": {"ffn": 96}},
    {"name": "plain", "steps": 2, "grow": "unmask"},
]


def test_layer_dropping_and_masked_growth_in_one_run(corpus, tmp_path):
    """Both depend on the step within the run. Two layouts draw the same layers and raise the same masks."""
    losses = []
    for name, changes in {"plain": {}, "cut": {"layout": {"tensor_parallel": 2}}}.items():
        model = dict(layers=2, hidden=32, heads=4, ffn=64, norm="pre", max_positions=32, hidden_dropout=0)
        batch = {"global": 8}  # one micro-batch a step: layers are drawn for each
        variants = recipe(corpus, stages=VARIANTS, batch=batch, model=model | {"attention_dropout": 0}, **changes)
        pool(2).run(train, variants, tmp_path / name)
        steps, events, summary = read(tmp_path / name)
        losses.append([step["loss"] for step in steps])
        growth = [event for event in events if event["event"] == "growth" and event["operator"] != "identity"]
        assert [event["operator"] for event in growth] == ["mask_growth", "unmask"]
        for event in growth:
            assert event["loss_after"] == pytest.approx(event["loss_before"], rel=1e-6)
        assert summary["steps"] == 11
    assert losses[1] == pytest.approx(losses[0], rel=2e-4)
