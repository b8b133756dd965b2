"""Runs whose objective changes: both losses at the change, moments carried, the same bits after a stop anywhere."""

import pytest

from model.errors import UserError
from pretrain.cost.flops import training_flops
from pretrain.cost.memory import stage_bytes
from pretrain.cost.savings import compare_costs, stage_flops
from pretrain.recipe import resolve
from pretrain.training.train import train
from tests.support.tiny import final_state, metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool

STAGES = [
    {"name": "clm", "steps": 6, "objective": "clm"},
    {"name": "mlm", "steps": 6, "objective": "mlm", "masking": {"rate": 0.4, "end": 0.15}},
    {"name": "deep", "steps": 4, "objective": "clm", "grow": "unshare"},
]
DATA = {"pack": True}


def recipe(corpus, **changes):
    return tiny_recipe(corpus, **{"stages": STAGES, "data": {"corpus": str(corpus), **DATA}, **changes})


def test_both_losses_at_the_change_and_the_same_bits_after_a_stop(corpus, tmp_path):
    asked = recipe(corpus)
    pool(2).run(train, asked, tmp_path / "whole")
    lines = metrics(tmp_path / "whole")
    first, second = [line for line in lines if line.get("event") == "objective"]
    assert (first["objective_before"], first["objective"], first["step"]) == ("clm", "mlm", 6)
    assert first["loss_before"] == first["loss_after"] and first["loss_before"].keys() == {"mlm", "clm"}
    assert second["loss_after"] == pytest.approx(second["loss_before"], rel=1e-5)  # unshare changes nothing
    assert second["loss_before"]["clm"] > first["loss_before"]["clm"] - 0.5
    (growth,) = [line for line in lines if line.get("event") == "growth"]
    assert growth["loss_before"] == second["loss_before"]["mlm"]  # by the objective that it comes from
    validations = [line for line in lines if line.get("event") == "validation"]
    assert [line.get("objective") for line in validations if line["step"] in (5, 10, 16)] == ["clm", None, "clm"]
    sizes = [line["step"] for line in lines if line.get("event") == "update_size"]
    assert set(range(4, 16)) <= set(sizes)

    for step in (6, 7, 9):  # at the change, after it, and while the mask rate falls
        pool(2).run(train_until, asked, tmp_path / "parts", step)
    pool(2).run(train, asked, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == lines
    assert same_bits(tmp_path / "parts", tmp_path / "whole")


def test_moments_and_steps_are_carried(corpus, tmp_path):
    pool(1).run(train, recipe(corpus, stages=STAGES[:2]), tmp_path / "both")
    state = final_state(tmp_path / "both")
    assert {int(steps) for name, steps in state.items() if name.endswith("/step")} == {12}


def test_costs_count_the_decoder_on_all_positions(corpus):
    clm, mlm, _ = stages = resolve(recipe(corpus), 131, 1).stages
    assert clm.config == mlm.config
    rows, tokens = 8, 32
    assert stage_flops(clm) == training_flops(clm.config, rows, tokens, rows * tokens)
    assert stage_flops(mlm) == training_flops(clm.config, rows, tokens, round(rows * tokens * 0.275))
    scores = clm.micro_batch * tokens * clm.config.padded_vocab_size * 2 * 4
    activations = [stage_bytes(stage, on_cpu=True)[1].activations for stage in (clm, mlm)]
    assert activations[0] - activations[1] == pytest.approx(0.6 * scores, rel=0.02)
    last_is_mlm = resolve(recipe(corpus, stages=STAGES[:2]), 131, 1)
    assert compare_costs(last_is_mlm).target == 12 * stage_flops(mlm)
    assert stages[2].predicted_share == 1


REFUSED = {
    "pairs": ({"data": {"sentence_pairs": "nsp"}}, "objective clm predicts text that goes on, and data.sentence_pairs"),
    "pooled": ({"model": {"pool_window": 2}}, "objective clm predicts each token, and pool_window 2 pools them"),
    "kernel": ({"model": {"attention": "elu", "attention_dropout": 0}}, "objective clm needs attention softmax"),
    "masking": ({"stages": [{"name": "a", "steps": 4, "objective": "clm", "masking": {"rate": 0.3}}]}, "masks nothing"),
    "hours": (
        {"hours": 1, "schedule": {"warmup": "1%"}, "stages": [{"name": "a", "masking": {"end": 0.1}}]},
        "masking.end 0.1 falls step by step",
    ),
    "no pairs": ({"stages": [{"name": "a", "steps": 4, "sentence_objective": False}]}, "needs sentence pairs"),
    "words below, no pairs": (
        {"model": {"mlm_layer": 1, "sentence_head": True}},
        "mlm_layer 1 leaves the layers above it to the sentence objective, which this stage does not train",
    ),
    "ended early": (
        {"stages": [{"name": "a", "steps": 4, "masking": {"end": 0.1}, "until": "auto"}]},
        "masking.end 0.1 falls over the whole stage, which a rule may end early",
    ),
    "divided": (
        {"stages": [{"name": "a", "steps": 4, "masking": {"end": 0.1}, "split": {"below": 0.5}}]},
        "masking.end 0.1 needs a stage that stays whole",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_means_nothing_is_refused_in_one_line(corpus, changes, message):
    values = recipe(corpus).model_dump(by_alias=True, exclude_none=True, mode="json")
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    with pytest.raises(UserError, match=message) as caught:
        resolve(type(recipe(corpus)).model_validate(values), 131, 1)
    assert "\n" not in str(caught.value)


def test_the_sentence_objective_goes_off_and_on(corpus, tmp_path):
    stages = [
        {"name": "both", "steps": 3},
        {"name": "words", "steps": 3, "sentence_objective": False},
        {"name": "again", "steps": 2, "sentence_objective": True},
    ]
    data = {"corpus": str(corpus), "sentence_pairs": "sop"}
    asked = recipe(corpus, stages=stages, data=data, deepspeed="ds_configs/zero3.json")
    pool(2).run(train, asked, tmp_path / "run")
    pool(2).run(train_until, asked, tmp_path / "parts", 5)
    pool(2).run(train, asked, tmp_path / "parts")
    assert same_bits(tmp_path / "parts", tmp_path / "run")  # a new engine has no gradient of before to repeat
    steps = [line for line in metrics(tmp_path / "run") if "event" not in line]
    assert ["sentence_accuracy" in line for line in steps] == [True] * 3 + [False] * 3 + [True] * 2
    assert all(line["loss"] == line["mlm_loss"] for line in steps[3:6])


def test_heads_move_between_stages_with_the_moments(corpus, tmp_path):
    """The state is carried bit for bit: a run that is stopped at the change ends as one that is not."""
    stages = [
        {"name": "lower", "steps": 4, "shape": {"sentence_layer": 1}},
        {"name": "last", "steps": 3, "shape": {"sentence_layer": None}},
        {"name": "deep", "steps": 3, "shape": {"layers": 4, "mlm_layer": 3}, "grow": ["unshare", "interleave"]},
    ]
    data = {"corpus": str(corpus), "sentence_pairs": "sop"}
    asked = recipe(corpus, stages=stages, data=data, deepspeed="ds_configs/zero2.json")
    pool(2).run(train, asked, tmp_path / "run")
    lines = metrics(tmp_path / "run")
    first, second = [line for line in lines if line.get("event") == "heads"]
    assert (first["step"], second["step"]) == (4, 7)
    assert first["loss_before"]["mlm"] == first["loss_after"]["mlm"]  # the same weights, read where they were
    assert first["loss_before"]["sentence"] != first["loss_after"]["sentence"]
    assert "the sentence head goes from layer 1 to the last layer; loss at the change: mlm" in first["message"]
    assert "the mlm head goes from the last layer to layer 3" in second["message"]
    growth = [line for line in lines if line.get("event") == "growth"]
    assert [line["loss_after"] for line in growth] == [first["loss_after"]["mlm"], second["loss_after"]["mlm"]]
    assert {int(steps) for name, steps in final_state(tmp_path / "run").items() if name.endswith("/step")} == {10}

    pool(2).run(train_until, asked, tmp_path / "parts", 4)
    pool(2).run(train, asked, tmp_path / "parts")
    assert same_bits(tmp_path / "parts", tmp_path / "run")
